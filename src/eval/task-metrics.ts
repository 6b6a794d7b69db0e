// Metrics that a person understands, over answers and their references, with 95 % bootstrap intervals.
//
//   exact match = examples whose answer equals the reference ÷ examples          (higher is better)
//   error rate  = Σ edits(answer, reference) ÷ Σ tokens of the reference         (lower is better; may exceed 1)
//
// Tokens are separated by white space; edits are Levenshtein's insertions, deletions and substitutions. Where the tokens
// are phonemes this is the phoneme error rate, where they are words the word error rate.
//
// The interval is the percentile bootstrap over examples (Efron 1979): resample the examples with replacement, compute
// the metric, take the 2.5 % and 97.5 % points. The resamples depend on the seed and the number of examples only, so that
// scores of several ranks over the same examples are compared on the same resamples.

import { randomStream } from "../random/philox.ts";

export type MetricName = "exact-match" | "error-rate";

/** A value with its 95 % interval. */
export interface Estimate {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** One example's share of a ratio Σ part ÷ Σ whole. */
export interface Share {
  readonly part: number;
  readonly whole: number;
}

export const HIGHER_IS_BETTER: Readonly<Record<MetricName, boolean>> = { "exact-match": true, "error-rate": false };

const RESAMPLES = 1000;
const TAIL = 0.025;

/** `answers[i]` against `references[i]`. Throws RangeError if the lengths differ or nothing is given. */
export function measure(
  metric: MetricName,
  answers: readonly string[],
  references: readonly string[],
  seed: number,
): Estimate {
  if (answers.length !== references.length || answers.length === 0)
    throw new RangeError(`${answers.length} answers for ${references.length} references`);
  const share = metric === "exact-match" ? exactShare : errorShare;
  return ratio(
    answers.map((answer, i) => share(tokensOf(answer), tokensOf(references[i]!))),
    seed,
  );
}

/** Σ part ÷ Σ whole over the examples, with its interval. */
export function ratio(shares: readonly Share[], seed: number): Estimate {
  const value = sumRatio(shares, (i) => i);
  const n = shares.length;
  const stream = randomStream(seed, "bootstrap");
  const resampled = Float64Array.from({ length: RESAMPLES }, (_, row) =>
    sumRatio(shares, (i) => stream.below(n, i, row)),
  );
  resampled.sort();
  return { value, low: quantile(resampled, TAIL), high: quantile(resampled, 1 - TAIL) };
}

/** Fewest insertions, deletions and substitutions that turn one list into the other. */
export function editDistance(from: readonly string[], to: readonly string[]): number {
  let row = Array.from({ length: to.length + 1 }, (_, j) => j);
  for (const [i, token] of from.entries()) {
    const next = [i + 1];
    for (const [j, other] of to.entries())
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (token === other ? 0 : 1)));
    row = next;
  }
  return row[to.length]!;
}

/** Words of a text, as every metric here splits it. */
export const tokensOf = (text: string): string[] => text.split(/\s+/).filter((token) => token !== "");

const exactShare = (answer: readonly string[], reference: readonly string[]): Share => ({
  part: editDistance(answer, reference) === 0 ? 1 : 0,
  whole: 1,
});

const errorShare = (answer: readonly string[], reference: readonly string[]): Share => ({
  part: editDistance(answer, reference),
  whole: reference.length,
});

function sumRatio(shares: readonly Share[], pick: (i: number) => number): number {
  let part = 0;
  let whole = 0;
  for (let i = 0; i < shares.length; i++) {
    const share = shares[pick(i)]!;
    part += share.part;
    whole += share.whole;
  }
  return part / whole;
}

/** Linear interpolation between the neighbours of the sorted values. */
function quantile(sorted: Float64Array, p: number): number {
  const at = p * (sorted.length - 1);
  const below = sorted[Math.floor(at)]!;
  return below + (at - Math.floor(at)) * (sorted[Math.ceil(at)]! - below);
}
