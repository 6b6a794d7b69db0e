// From logits to a token: the processors of transformers' generation in their order (repetition penalty; then, when
// sampling, temperature, top-k, top-p, min-p), then a draw. Scores are f32 as there; sums are f64.

import type { RandomStream } from "../random/philox.ts";

export interface SamplingOptions {
  /** 0: the most likely token, always. */
  readonly temperature: number;
  /** Only tokens as likely as the k-th; 0: all. */
  readonly topK: number;
  /** Only the fewest most likely tokens whose probabilities reach this sum; 1: all. */
  readonly topP: number;
  /** Only tokens at least so likely as this share of the most likely one; 0: all. */
  readonly minP: number;
  /** Divides positive logits, and multiplies negative ones, of tokens that are there already; 1: none. */
  readonly repetitionPenalty: number;
}

export const GREEDY: SamplingOptions = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };

/** Index of the largest logit; the lowest index on a tie. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  return best;
}

/**
 * Draws token number `index` of a stream: the same stream and index give the same token for the same logits.
 * `seen` holds the tokens of prompt and answer so far.
 */
export function sample(
  logits: Float32Array,
  options: SamplingOptions,
  seen: Iterable<number>,
  stream: RandomStream,
  index: number,
): number {
  const scores = processLogits(logits, options, seen);
  if (options.temperature === 0) return argmax(scores);
  const probabilities = softmax(scores);
  let left = stream.uniform(index);
  let last = 0;
  for (let token = 0; token < probabilities.length; token++) {
    const p = probabilities[token]!;
    if (p === 0) continue;
    if (left < p) return token;
    left -= p;
    last = token;
  }
  return last;
}

/** The scores that tokens are drawn by; those of tokens that cannot be drawn are −∞. */
export function processLogits(
  logits: Float32Array,
  { temperature, topK, topP, minP, repetitionPenalty }: SamplingOptions,
  seen: Iterable<number>,
): Float32Array {
  const scores = repetitionPenalty === 1 && temperature === 0 ? logits : logits.slice();
  if (repetitionPenalty !== 1) penalise(scores, repetitionPenalty, seen);
  if (temperature === 0) return scores;
  for (let i = 0; i < scores.length; i++) scores[i]! /= temperature;
  if (topK > 0 && topK < scores.length) removeBelow(scores, scores.toSorted()[scores.length - topK]!);
  if (topP < 1) keepNucleus(scores, topP);
  if (minP > 0) removeUnlikely(scores, minP);
  return scores;
}

function penalise(scores: Float32Array, penalty: number, seen: Iterable<number>): void {
  for (const token of new Set(seen)) {
    const score = scores[token]!;
    scores[token] = score < 0 ? score * penalty : score / penalty;
  }
}

function removeBelow(scores: Float32Array, least: number): void {
  for (let i = 0; i < scores.length; i++) if (scores[i]! < least) scores[i] = Number.NEGATIVE_INFINITY;
}

/**
 * Removes the least likely tokens as long as together they have at most 1 − topP. Of equal ones at the edge those of lower
 * index go first; transformers leaves that to an unstable sort.
 */
function keepNucleus(scores: Float32Array, topP: number): void {
  const ascending = scores.toSorted();
  const highest = ascending.at(-1)!;
  const weight = (score: number): number => Math.exp(score - highest);
  const total = ascending.reduce((sum, score) => sum + weight(score), 0);
  let removed = 0;
  // The most likely token always stays.
  for (let mass = 0; removed < ascending.length - 1; removed++) {
    mass += weight(ascending[removed]!);
    if (mass > (1 - topP) * total) break;
  }
  const edge = ascending[removed]!;
  let equal = removed - ascending.indexOf(edge);
  for (let i = 0; i < scores.length; i++)
    if (scores[i]! < edge || (scores[i] === edge && equal-- > 0)) scores[i] = Number.NEGATIVE_INFINITY;
}

function removeUnlikely(scores: Float32Array, minP: number): void {
  const highest = scores.reduce((a, b) => Math.max(a, b));
  for (let i = 0; i < scores.length; i++)
    if (Math.exp(scores[i]! - highest) < minP) scores[i] = Number.NEGATIVE_INFINITY;
}

/** Probabilities, f64; 0 where the score is −∞. */
export function softmax(scores: Float32Array): Float64Array {
  const highest = scores.reduce((a, b) => Math.max(a, b));
  const weights = Float64Array.from(scores, (score) => Math.exp(score - highest));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((value) => value / total);
}
