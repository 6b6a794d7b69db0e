// What the attention ops share: how a score is made, matrices read as heads, the segments' rows, and one query over what it
// sees.

import { readMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, type Named } from "./op.ts";

export interface AttentionAttributes {
  /** D */
  readonly headDim: number;
  /** Factor on q·k, usually 1/√D. */
  readonly scale: number;
  /** A query sees its own key and the window − 1 keys before it; null: all keys before it. */
  readonly window: number | null;
  /** Scores are cap·tanh(scale·q·k/cap), so that none is larger than the cap (arXiv 2408.00118 §2); null: scale·q·k. */
  readonly softCap: number | null;
}

/** Heads must be whole, and every group of query heads must have its key/value head. */
export function checkAttention(
  op: Named,
  queryCols: number,
  keyCols: number,
  { headDim, scale, window, softCap }: AttentionAttributes,
): void {
  if (!Number.isInteger(headDim) || headDim < 1) throw broken(op, "headDim", "a whole number ≥ 1", headDim);
  if (queryCols % headDim !== 0) throw broken(op, "headDim", `a divisor of the ${queryCols} columns of q`, headDim);
  if (keyCols % headDim !== 0) throw broken(op, "headDim", `a divisor of the ${keyCols} columns of k`, headDim);
  if (keyCols === 0 || queryCols % keyCols !== 0)
    throw broken(op, "q.cols", `whole groups of ${keyCols / headDim} key/value heads`, `${queryCols / headDim} heads`);
  if (!Number.isFinite(scale)) throw broken(op, "scale", "a finite number", scale);
  if (window !== null && !(Number.isSafeInteger(window) && window >= 1))
    throw broken(op, "window", "null or a whole number ≥ 1: a query sees its own key", window);
  if (softCap !== null && !(Number.isFinite(softCap) && softCap > 0))
    throw broken(op, "softCap", "null or a finite number > 0", softCap);
}

/** The score of a query and a key whose product q·k is `product`. */
export function scoreOf(product: number, { scale, softCap }: AttentionAttributes): number {
  return softCap === null ? scale * product : softCap * Math.tanh((scale * product) / softCap);
}

/** The first of the keys from.. that the query in row `n` sees. */
export const firstSeen = (from: number, n: number, { window }: AttentionAttributes): number =>
  window === null ? from : Math.max(from, n - window + 1);

/** Pairs of a query and a key that it sees, in one segment of n rows; half of the square if there is no window. */
export function visiblePairs(n: number, { window }: AttentionAttributes): number {
  const width = Math.min(n, window ?? n);
  return width * n - (width * width) / 2;
}

/** A matrix [rows, heads·D] read as heads: `at` is a view of one head of one row. */
export interface Heads {
  readonly count: number;
  readonly all: Float64Array;
  at(row: number, head: number): Float64Array;
}

export const headsOf = (tensor: Tensor, headDim: number): Heads => headsIn(readMatrix(tensor), tensor.cols, headDim);

/** A gradient's sums, as many as `like` has values. */
export const zeroHeads = (like: Heads, headDim: number): Heads =>
  headsIn(new Float64Array(like.all.length), like.count * headDim, headDim);

function headsIn(all: Float64Array, cols: number, headDim: number): Heads {
  const at = (row: number, head: number) => {
    const start = row * cols + head * headDim;
    return all.subarray(start, start + headDim);
  };
  return { count: cols / headDim, all, at };
}

/** The row ranges of the segments. */
export function segmentsOf(starts: Tensor): { from: number; to: number }[] {
  const rows = readMatrix(starts);
  return range(0, rows.length - 1).map((s) => ({ from: rows[s]!, to: rows[s + 1]! }));
}

/** from, from + 1, …, to − 1 */
export const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

export function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/**
 * One query head [D] over the keys and values that it sees: o [D] and the log-sum-exp of its scores. The largest score
 * is subtracted before exp, which would overflow from 709 on (from 88 on in f32).
 */
export function attend(
  query: Float64Array,
  keys: Float64Array[],
  values: Float64Array[],
  attributes: AttentionAttributes,
) {
  const scores = keys.map((key) => scoreOf(dot(query, key), attributes));
  const largest = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const sum = scores.reduce((total, score) => total + Math.exp(score - largest), 0);
  const o = new Float64Array(query.length);
  for (const [j, value] of values.entries()) {
    const weight = Math.exp(scores[j]! - largest) / sum;
    for (let d = 0; d < o.length; d++) o[d]! += weight * value[d]!;
  }
  return { o, lse: largest + Math.log(sum) };
}
