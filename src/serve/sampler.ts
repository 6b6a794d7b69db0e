// From logits to a token.

import type { RandomStream } from "../random/philox.ts";

export interface SamplingOptions {
  /** 0: the most likely token, always. */
  readonly temperature: number;
  /** Only the k most likely; 0: all. */
  readonly topK: number;
  /** Only the fewest most likely tokens whose probabilities reach this sum; 1: all. */
  readonly topP: number;
}

export const GREEDY: SamplingOptions = { temperature: 0, topK: 0, topP: 1 };

/** Index of the largest logit; the lowest index on a tie. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  return best;
}

/** Draws token number `index` of a stream: the same stream and index give the same token for the same logits. */
export function sample(logits: Float32Array, options: SamplingOptions, stream: RandomStream, index: number): number {
  if (options.temperature === 0) return argmax(logits);
  const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
  const kept = options.topK > 0 ? order.slice(0, options.topK) : order;
  const highest = logits[kept[0]!]!;
  const weights = kept.map((token) => Math.exp((logits[token]! - highest) / options.temperature));
  const nucleus = nucleusSize(weights, options.topP);
  let left = stream.uniform(index) * weights.slice(0, nucleus).reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < nucleus; i++) {
    left -= weights[i]!;
    if (left <= 0) return kept[i]!;
  }
  return kept[nucleus - 1]!;
}

/** How many of the descending `weights` reach the share `topP` of their sum; at least one. */
function nucleusSize(weights: readonly number[], topP: number): number {
  if (topP >= 1) return weights.length;
  const goal = topP * weights.reduce((sum, weight) => sum + weight, 0);
  let sum = 0;
  for (let i = 0; i < weights.length; i++) {
    sum += weights[i]!;
    if (sum >= goal) return i + 1;
  }
  return weights.length;
}
