// What the forward and the backward of adaptedLinears share: checks of a group of linears with one x, and its cost.

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { checkFrozenWeight, type FrozenWeight } from "./frozen-weight.ts";
import { broken, type Named } from "./op.ts";
import type { RankRange } from "./rank-range.ts";

type Entries = readonly (Tensor | null)[];

/** 1–4 weights [M_i, K], and one entry per weight in every list. `outputs` have M_i columns. */
export function checkGroup(
  op: Named,
  weights: readonly FrozenWeight[],
  inFeatures: number,
  outputs: { readonly name: string; readonly list: Entries },
  lists: Readonly<Record<string, Entries>>,
): void {
  if (weights.length < 1 || weights.length > 4) throw broken(op, "weights.length", "1 to 4", weights.length);
  for (const [name, list] of Object.entries({ ...lists, [outputs.name]: outputs.list }))
    if (list.length !== weights.length)
      throw broken(op, `${name}.length`, `${weights.length}, one per weight`, list.length);
  for (const [i, weight] of weights.entries()) {
    checkFrozenWeight(op, `weights[${i}]`, weight);
    if (weight.cols !== inFeatures)
      throw broken(op, `weights[${i}].cols`, `${inFeatures}, the columns of x`, weight.cols);
    const columns = outputs.list[i]!.cols;
    if (columns !== weight.rows)
      throw broken(op, `${outputs.name}[${i}].cols`, `${weight.rows}, the rows of weights[${i}]`, columns);
  }
}

/** The tensors of one adapter come together: all of `lists` have an entry for linear i, or none has. */
export function checkTogether(op: Named, lists: Readonly<Record<string, Entries>>): void {
  const [[lead, leading], ...rest] = Object.entries(lists) as [[string, Entries], ...[string, Entries][]];
  for (const [i, entry] of leading.entries())
    for (const [name, list] of rest)
      if ((list[i] === null) !== (entry === null))
        throw broken(
          op,
          `${name}[${i}]`,
          `${entry ? "a tensor" : "null"}, as ${lead}[${i}]`,
          list[i] ? "a tensor" : "null",
        );
}

/**
 * Spare columns lie right behind `parts`, which lie side by side themselves: all are column blocks of one matrix, so that a
 * kernel can read them as one.
 */
export function checkTail(op: Named, name: string, parts: readonly Tensor[], tail: Tensor | null): void {
  if (!tail) return;
  const all = [...parts, tail];
  for (const [i, after] of all.entries()) {
    const before = all[i - 1];
    if (!before) continue;
    const adjoins =
      after.buffer === before.buffer &&
      after.stride === before.stride &&
      after.dtype === before.dtype &&
      after.rows === before.rows &&
      after.offset === before.offset + before.cols * BYTES_PER_ELEMENT[before.dtype];
    if (!adjoins) throw broken(op, name, "columns right behind those before, in the same rows", "a tensor elsewhere");
  }
}

/** R; without any adapter every rank is allowed, since none is read. */
export function largestRank(a: Entries): number {
  return a.find((entry) => entry !== null)?.rows ?? Number.POSITIVE_INFINITY;
}

/** Operations of one pass over the products with W, A and B: the backward has two passes over A and B. */
export function groupFlops(
  x: Tensor,
  weights: readonly FrozenWeight[],
  a: Entries,
  ranges: readonly RankRange[],
  passes: { readonly base: number; readonly adapter: number },
): number {
  const rankedRows = ranges.reduce((sum, { from, to, rank }) => sum + (to - from) * rank, 0);
  return weights.reduce((sum, { rows, cols }, i) => {
    const adapter = a[i] ? rankedRows * (rows + cols) : 0;
    const base = weights[i]!.format === "zero" ? 0 : passes.base * x.rows * rows * cols;
    return sum + 2 * (base + passes.adapter * adapter);
  }, 0);
}
