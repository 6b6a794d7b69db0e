// Which rows of a micro-batch run at which rank: one range for all rows in training, one per segment when ranks are mixed.

import { broken, type Named } from "./op.ts";

/** Rows from..to−1 of a micro-batch run at adapter rank `rank` with scale s(rank). Rank 0: the base alone. */
export interface RankRange {
  readonly from: number;
  readonly to: number;
  readonly rank: number;
  readonly scale: number;
}

/** Ranges are ascending, disjoint, inside the rows, and their rank is at most `maxRank`. Rows between ranges are allowed. */
export function checkRanges(op: Named, ranges: readonly RankRange[], rows: number, maxRank: number): void {
  let end = 0;
  for (const [i, { from, to, rank, scale }] of ranges.entries()) {
    const name = `ranges[${i}]`;
    if (!Number.isInteger(from) || from < end)
      throw broken(op, `${name}.from`, `a whole number from ${end} on, where the range before ends`, from);
    if (!Number.isInteger(to) || to < from || to > rows)
      throw broken(op, `${name}.to`, `from ${from} to ${rows} rows`, to);
    if (!Number.isInteger(rank) || rank < 0 || rank > maxRank)
      throw broken(op, `${name}.rank`, `from 0 to ${maxRank}`, rank);
    if (!Number.isFinite(scale)) throw broken(op, `${name}.scale`, "a finite number", scale);
    end = to;
  }
}
