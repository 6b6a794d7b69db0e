// The victim: trains the tiny model in FOLDER and kills itself without warning, as the system would, at one chosen moment.

import { openFolder, type WritePoint } from "../../src/formats/node-files.ts";
import { trainConfig, trainTiny } from "./tiny-run.ts";

/** After this optimizer step, or at this moment of the n-th atomic write. */
export type Moment = { readonly step: number } | { readonly point: WritePoint; readonly write: number };

export async function trainUntilKilled(path: string, moment: Moment): Promise<void> {
  let writes = 0;
  const die = (): void => {
    process.kill(process.pid, "SIGKILL");
  };
  const folder = await openFolder(path, {
    write: true,
    hook: (point) => {
      if (point === "before-temp") writes++;
      if ("point" in moment && moment.point === point && moment.write === writes) die();
    },
  });
  await trainTiny({
    folder,
    config: trainConfig(),
    onEvent: (event) => {
      if ("step" in moment && event.type === "step" && event.step === moment.step) die();
    },
  });
}
