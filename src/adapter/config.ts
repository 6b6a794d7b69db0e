// The settings of an adapter: its largest rank, which ranks are drawn in training, and how a rank scales.

import type { LinearName } from "../model/config.ts";

/** s(b): alpha/b is the paper's (DyLoRA eq. 7); the others fix or soften its dependence on b. */
export type ScaleRule = "alpha/b" | "alpha/R" | "alpha/sqrt(b)" | "one";

/**
 * dylora: one b per optimizer step, rows < b learn (the paper, "nested").
 * frozen: one b per step, only row b−1 learns.
 * fixed: b = R always: plain LoRA/QLoRA.
 */
export type TrainingMode = "dylora" | "frozen" | "fixed";

/** p_B. `uniform` draws from `ranks`; `range` from 1..R; `geometric` p(1−p)^(b−1) cut at R; `weights` per entry of `ranks`. */
export type RankDistribution =
  | { readonly kind: "uniform" }
  | { readonly kind: "range" }
  | { readonly kind: "geometric"; readonly p: number }
  | { readonly kind: "weights"; readonly weights: readonly number[] }
  /** With probability `share` as `range`, else as `uniform`. */
  | { readonly kind: "mixture"; readonly share: number };

export interface AdapterConfig {
  /** R, the largest rank. */
  readonly rankMax: number;
  readonly alpha: number;
  readonly scaleRule: ScaleRule;
  readonly targets: readonly LinearName[];
  readonly mode: TrainingMode;
  /** Ranks that are evaluated, and drawn under `uniform` and `weights`. Ascending; the last is R. */
  readonly ranks: readonly number[];
  readonly distribution: RankDistribution;
  /** Probability that training drops an element of an adapter's input; 0: none. */
  readonly dropout: number;
}

/** 1, 2, 4, … up to R, R itself always included. */
export function defaultRanks(rankMax: number): number[] {
  const ranks: number[] = [];
  for (let rank = 1; rank < rankMax; rank *= 2) ranks.push(rank);
  return [...ranks, rankMax];
}

/** s(b). Rank 0 (the base alone) has scale 0. */
export function scaleAt(config: Pick<AdapterConfig, "alpha" | "scaleRule" | "rankMax">, rank: number): number {
  if (rank === 0) return 0;
  switch (config.scaleRule) {
    case "alpha/b":
      return config.alpha / rank;
    case "alpha/R":
      return config.alpha / config.rankMax;
    case "alpha/sqrt(b)":
      return config.alpha / Math.sqrt(rank);
    case "one":
      return 1;
  }
}
