// The choices of algorithms that fresh runs on this machine start from: beside the compiled kernels, a file for each GPU model. What
// cannot be read is timed again; what cannot be written costs time and nothing else.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { defaultCacheFolder } from "./cubin-cache.ts";
import type { TuningCache } from "./tuning.ts";

export const tuningFile = (deviceName: string): string =>
  join(defaultCacheFolder(), `tuning ${deviceName.replaceAll(/[^\w. -]/g, "_")}.json`);

export function loadTuning(tuning: TuningCache, file: string): void {
  try {
    tuning.load(readFileSync(file, "utf8"));
  } catch {
    // Absent or damaged.
  }
}

export function saveTuning(tuning: TuningCache, file: string): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    const temporary = `${file}.${process.pid}.tmp`;
    try {
      writeFileSync(temporary, tuning.save());
      renameSync(temporary, file);
    } finally {
      rmSync(temporary, { force: true });
    }
  } catch {
    // Timed again the next time.
  }
}
