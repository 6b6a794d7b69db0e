// The work that a step cannot do without, for shares of a peak. What is recomputed never counts.

import { type LinearName, linearOf, type ModelConfig } from "./config.ts";

/** Weights of all block linears. */
export function blockWeights(config: ModelConfig): number {
  return config.layers * config.block.linears.reduce((sum, linear) => sum + linear.in * linear.out, 0);
}

export interface StepShape {
  readonly rank: number;
  readonly targets: readonly LinearName[];
  /** Lengths of the segments of a step, every token supervised. */
  readonly lengths: readonly number[];
}

/**
 * Operations of one training step: per token 4 per frozen block weight and head weight (forward and dX; the base has no
 * dW), 6·b per row and column of an adapted linear (forward, dX, dA and dB), and attention over unmasked pairs, 4·H·D a pair
 * forward and 2.5 times that backward.
 */
export function trainingFlops(config: ModelConfig, { rank, targets, lengths }: StepShape): number {
  const tokens = lengths.reduce((a, b) => a + b, 0);
  const pairs = config.perLayer.reduce(
    (sum, { window }) => sum + lengths.reduce((total, length) => total + visiblePairs(length, window), 0),
    0,
  );
  const widths = targets.map((name) => linearOf(config, name)).reduce((sum, linear) => sum + linear.in + linear.out, 0);
  const perToken = 4 * blockWeights(config) + 4 * config.vocabulary * config.hidden + 6 * rank * config.layers * widths;
  return tokens * perToken + 3.5 * 4 * config.heads * config.headDim * pairs;
}

/** Pairs of a token and one that it sees, itself included. */
function visiblePairs(length: number, window: number | null): number {
  const width = Math.min(length, window ?? length);
  return (width * (width + 1)) / 2 + (length - width) * width;
}
