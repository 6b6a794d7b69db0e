/** Rows from..to−1 of a micro-batch run at adapter rank `rank` with scale s(rank). Rank 0: the base alone. */
export interface RankRange {
  readonly from: number;
  readonly to: number;
  readonly rank: number;
  readonly scale: number;
}
