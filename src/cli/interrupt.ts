// Ctrl-C in a run: acknowledged at once, obeyed at the next step boundary. The second one leaves at once; files are safe,
// since every write of a run is atomic.

import type { Io } from "./io.ts";

const EXIT_INTERRUPTED = 130;

export interface Interruption extends Disposable {
  readonly signal: AbortSignal;
}

/** Listens for Ctrl-C until disposed. `say` tells the user. */
export function onInterruption(io: Io, say: (text: string) => void): Interruption {
  const controller = new AbortController();
  const stop = io.onInterrupt(() => {
    if (controller.signal.aborted) return io.exit(EXIT_INTERRUPTED);
    controller.abort();
    say("stopping after this step, with a checkpoint (Ctrl-C again to leave at once)");
  });
  return { signal: controller.signal, [Symbol.dispose]: stop };
}
