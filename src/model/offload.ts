// Activations that wait in the host's memory: copied there behind a layer's forward, brought back ahead of its backward.
// The copies run beside the work of the layers in between, so they cost no time as long as the bus keeps up.

import { BusClock } from "./bus.ts";
import { inputsOf, rename } from "./differentiate.ts";
import { type Call, call, rowBytesOf, type Section, type Value } from "./graph.ts";

export interface Offloading {
  /** In the order in which they run. */
  readonly forward: readonly Section[];
  /** In the order in which they run: that of the last forward section comes first. */
  readonly backward: readonly Section[];
  /** By index of a forward section: what may wait in the host's memory until its backward, which alone reads it. */
  readonly waiting: ReadonlyMap<number, readonly Value[]>;
  /** What the bus carries while a section runs: copies are awaited when they should be over. */
  readonly rowBytesPerLayer: number;
}

/** Calls around one section. */
interface Around {
  /** Copies that must be over. */
  readonly awaited: Call[];
  /** Copies that begin. */
  readonly begun: Call[];
}

/** All calls in order, with the copies between them. */
export function offload(offloading: Offloading): Call[] {
  const { forward, backward } = offloading;
  const calls = backward.map((section) => section.calls).toReversed();
  const around = (): Around[] => forward.map(() => ({ awaited: [], begun: [] }));
  const [after, before] = [around(), around()];
  for (const { section, values, far } of trips(offloading, calls)) {
    const away = values.map((value) => value.like(`${value.name} (host)`, "host"));
    const back = values.map((value) => value.like(`${value.name} (back)`));
    after[section]!.begun.push(call("startCopies", { xs: values, ys: away, group: section }));
    after[far]!.awaited.push(call("awaitCopies", { held: [...values, ...away], group: section }));
    // The way back is the way there in the mirror.
    before[far]!.begun.unshift(call("startCopies", { xs: away, ys: back, group: section }));
    before[section]!.awaited.push(call("awaitCopies", { held: [...away, ...back], group: section }));
    const renamed = new Map(values.map((value, i) => [value, back[i]!]));
    calls[section] = calls[section]!.map((entry) => rename(entry, renamed));
  }
  return [
    ...forward.flatMap((section, i) => [...section.calls, ...after[i]!.awaited, ...after[i]!.begun]),
    ...calls
      .map((list, i) => [...before[i]!.awaited, ...before[i]!.begun, ...list])
      .toReversed()
      .flat(),
  ];
}

/** What one section copies, and the later section behind which its copies are awaited. */
interface Trip {
  readonly section: number;
  readonly values: readonly Value[];
  readonly far: number;
}

/**
 * Copies are awaited where the bus should be through with them: what they hold until then takes the place of what is not
 * computed yet. A bus that would not be through when the backward begins holds up the work instead of memory.
 */
function trips({ forward, waiting, rowBytesPerLayer }: Offloading, calls: readonly (readonly Call[])[]): Trip[] {
  const last = forward.length - 1;
  const clock = new BusClock(rowBytesPerLayer);
  const timed = [...waiting].flatMap(([section, candidates]) => {
    const read = new Set(calls[section]!.flatMap(inputsOf));
    const values = candidates.filter((value) => read.has(value));
    const rowBytes = values.reduce((sum, value) => sum + rowBytesOf(value), 0);
    // A section's time is from its index on.
    return values.length === 0 ? [] : [{ section, values, over: clock.begin(section + 1, rowBytes) }];
  });
  const keepsUp = (timed.at(-1)?.over ?? 0) <= last;
  return timed.map(({ section, values, over }) => {
    const next = Math.min(section + 1, last);
    return { section, values, far: keepsUp ? Math.max(next, Math.ceil(over) - 1) : next };
  });
}
