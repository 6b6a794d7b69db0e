// Which layers keep what: rungs of a ladder from everything kept to every layer given up, and the ways to give layers up.

import { BusClock } from "./bus.ts";
import type { KeepLevel } from "./steps.ts";

/** What becomes of the first `given` layers, which are given up. */
export type Way = (given: number) => readonly KeepLevel[];

/** Rung 0 keeps all; each of the next L rungs drops the cheap values of one more layer, each of the last L gives up a layer. */
export function ladder(layers: number, rung: number, way: Way): KeepLevel[] {
  const gone = way(Math.max(0, rung - layers));
  return Array.from({ length: layers }, (_, layer) => gone[layer] ?? (rung > layer ? "recompute-cheap" : "keep"));
}

/** All is computed again. */
export const recomputed: Way = (given) => Array<KeepLevel>(given).fill("recompute-layer");

/** Inputs wait in the host's memory, but the last layer's, which would be needed again at once. */
export const inputsAway =
  (layers: number): Way =>
  (given) =>
    Array.from({ length: given }, (_, layer) => (layer < layers - 1 ? "offload-input" : "recompute-layer"));

export interface BusLoad {
  readonly layers: number;
  /** Bytes of each row that the bus carries in a layer's time. */
  readonly rowBytesPerLayer: number;
  /** Bytes of each row of what a layer offloads, and of its input alone. */
  readonly wholeRowBytes: number;
  readonly inputRowBytes: number;
}

/**
 * As many layers as the bus carries during the whole forward wait in the host's memory, evenly among those that are given up,
 * of the others the inputs do. What would not be there before the last layer, whose backward comes next, is computed again.
 */
export const wholesAway =
  ({ layers, rowBytesPerLayer, wholeRowBytes, inputRowBytes }: BusLoad): Way =>
  (given) => {
    const spare = layers * rowBytesPerLayer - given * inputRowBytes;
    const wholes = Math.min(given, Math.max(0, Math.floor(spare / (wholeRowBytes - inputRowBytes))));
    const clock = new BusClock(rowBytesPerLayer);
    return Array.from({ length: given }, (_, layer) => {
      const due = Math.floor(((layer + 1) * wholes) / given) > Math.floor((layer * wholes) / given);
      for (const [level, bytes] of [
        ["offload", wholeRowBytes],
        ["offload-input", inputRowBytes],
      ] as const) {
        if (level === "offload" && !due) continue;
        if (clock.endOf(layer + 1, bytes) > layers - 1) continue;
        clock.begin(layer + 1, bytes);
        return level;
      }
      return "recompute-layer";
    });
  };
