// p_B: which rank an optimizer step trains. One b per step, the same for all layers, micro-batches and workers, and a pure
// function of (seed, step), so that resuming needs no generator state.

import { randomStream } from "../random/philox.ts";
import type { AdapterConfig } from "./config.ts";

/** Probability of each rank 1..R (index 0 is rank 1). */
export function rankProbabilities(config: AdapterConfig): Float64Array {
  const { rankMax, ranks, distribution } = config;
  const p = new Float64Array(rankMax);
  if (config.mode === "fixed") {
    p[rankMax - 1] = 1;
    return p;
  }
  const range = (share: number): void => {
    for (let rank = 1; rank <= rankMax; rank++) p[rank - 1]! += share / rankMax;
  };
  const listed = (weights: readonly number[], share: number): void => {
    const total = weights.reduce((a, b) => a + b, 0);
    ranks.forEach((rank, i) => {
      p[rank - 1]! += (share * weights[i]!) / total;
    });
  };
  switch (distribution.kind) {
    case "uniform":
      listed(
        ranks.map(() => 1),
        1,
      );
      break;
    case "weights":
      listed(distribution.weights, 1);
      break;
    case "range":
      range(1);
      break;
    case "mixture":
      range(distribution.share);
      listed(
        ranks.map(() => 1),
        1 - distribution.share,
      );
      break;
    case "geometric": {
      const raw = Array.from({ length: rankMax }, (_, i) => distribution.p * (1 - distribution.p) ** i);
      const total = raw.reduce((a, b) => a + b, 0);
      raw.forEach((value, i) => {
        p[i] = value / total;
      });
    }
  }
  return p;
}

/** The rank of optimizer step `step` (0-based). */
export function drawRank(config: AdapterConfig, seed: number, step: number): number {
  const probabilities = rankProbabilities(config);
  let left = randomStream(seed, "rank").uniform(step);
  let last = config.rankMax;
  for (let rank = 1; rank <= config.rankMax; rank++) {
    const p = probabilities[rank - 1]!;
    if (p === 0) continue;
    if (left < p) return rank;
    left -= p;
    last = rank;
  }
  return last;
}

/** Rows [from, to) that a step at `rank` updates. */
export function rowWindow(config: Pick<AdapterConfig, "mode">, rank: number): { from: number; to: number } {
  return config.mode === "frozen" ? { from: rank - 1, to: rank } : { from: 0, to: rank };
}

/** Expected number of updates of each row (index 0 is row 0) over `steps` steps. */
export function expectedUpdates(config: AdapterConfig, steps: number): Float64Array {
  const probabilities = rankProbabilities(config);
  const updates = new Float64Array(config.rankMax);
  probabilities.forEach((p, index) => {
    const { from, to } = rowWindow(config, index + 1);
    for (let row = from; row < to; row++) updates[row]! += p * steps;
  });
  return updates;
}
