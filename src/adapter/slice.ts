// The adapter at rank b is the first b rows of every A and Bᵀ: no arithmetic, so no loss.

import { QdlError } from "../errors.ts";
import type { AdapterConfig } from "./config.ts";

/** A and Bᵀ by tensor name (`layers.0.q_proj.A`), f32 [rank, cols] row-major. */
export interface AdapterWeights {
  readonly rank: number;
  readonly tensors: ReadonlyMap<string, Float32Array>;
}

/** Throws RANK_OUT_OF_RANGE unless 1 ≤ rank ≤ R. */
export function checkRank(rank: number, rankMax: number): void {
  if (Number.isInteger(rank) && rank >= 1 && rank <= rankMax) return;
  throw new QdlError(
    "RANK_OUT_OF_RANGE",
    `rank is ${rank}, expected a whole number from 1 to ${rankMax}, the adapter's largest rank`,
    {
      hint: `Choose a rank from 1 to ${rankMax}.`,
      details: { rank, rankMax },
    },
  );
}

/** The first `rank` rows, copied. Throws RANK_OUT_OF_RANGE. */
export function sliceWeights(weights: AdapterWeights, rank: number): AdapterWeights {
  checkRank(rank, weights.rank);
  const tensors = new Map<string, Float32Array>();
  for (const [name, values] of weights.tensors)
    tensors.set(name, values.slice(0, (values.length / weights.rank) * rank));
  return { rank, tensors };
}

/** The config under which a slice computes at its largest rank what the whole adapter computes at that rank. */
export function sliceConfig(config: AdapterConfig, rank: number): AdapterConfig {
  const alpha = config.scaleRule === "alpha/R" ? (config.alpha * rank) / config.rankMax : config.alpha;
  const ranks = [...config.ranks.filter((r) => r < rank), rank];
  return { ...config, rankMax: rank, alpha, ranks, distribution: { kind: "uniform" } };
}
