// What the AdamW ops share: the update of one row in exact arithmetic, the clipping factor, and the checks of settings.

import type { Tensor } from "../tensor/tensor.ts";
import { broken, type Named } from "./op.ts";

/** What every form of AdamW is given beside its tensors. */
export interface AdamWSettings {
  /** First row updated. */
  readonly from: number;
  /** End of the rows updated. */
  readonly to: number;
  /** lr of each tensor. */
  readonly learningRates: readonly number[];
  /** β₁ */
  readonly beta1: number;
  /** β₂ */
  readonly beta2: number;
  /** ε */
  readonly epsilon: number;
  /** Decoupled decay, multiplied by lr. */
  readonly weightDecay: number;
  /** Bound on the norm of the whole gradient; 0: none. */
  readonly maxNorm: number;
}

export const SETTINGS_SAMPLE = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, maxNorm: 1 } as const;

/** Factor that brings a gradient of Σ g² = `squares` down to `maxNorm`; NaN if squares is not finite: then nothing moves. */
export function clipFactor(squares: number, maxNorm: number): number {
  if (!Number.isFinite(squares)) return Number.NaN;
  return maxNorm > 0 ? Math.min(1, maxNorm / (Math.sqrt(squares) + 1e-6)) : 1;
}

/** One row of weights, gradient and moments. All but g change. */
export interface AdamWRow {
  readonly p: Float64Array;
  readonly g: Float64Array;
  readonly m: Float64Array;
  readonly v: Float64Array;
}

/** @param n updates of this row, this one included */
export function adamWRow(
  { p, g, m, v }: AdamWRow,
  scale: number,
  n: number,
  learningRate: number,
  { beta1, beta2, epsilon, weightDecay }: AdamWSettings,
): void {
  for (let c = 0; c < p.length; c++) {
    const gradient = scale * g[c]!;
    m[c] = beta1 * m[c]! + (1 - beta1) * gradient;
    v[c] = beta2 * v[c]! + (1 - beta2) * gradient * gradient;
    const mHat = m[c]! / (1 - beta1 ** n);
    const vHat = v[c]! / (1 - beta2 ** n);
    p[c]! -= learningRate * (mHat / (Math.sqrt(vHat) + epsilon) + weightDecay * p[c]!);
  }
}

/** Throws OP_ARGUMENT. `lists` must have one entry for each of the `count` tensors. */
export function checkAdamW(
  op: Named,
  settings: AdamWSettings,
  rows: number,
  count: number,
  lists: Readonly<Record<string, readonly (Tensor | null)[]>>,
): void {
  const { from, to, learningRates, beta1, beta2, epsilon, weightDecay, maxNorm } = settings;
  for (const [name, list] of Object.entries({ ...lists, learningRates }))
    if (list.length !== count) throw broken(op, `${name}.length`, `${count}, one per tensor`, list.length);
  if (!Number.isInteger(from) || from < 0) throw broken(op, "from", "a whole number ≥ 0", from);
  if (!Number.isInteger(to) || to < from || to > rows) throw broken(op, "to", `from ${from} to ${rows} rows`, to);
  for (const [i, rate] of learningRates.entries())
    if (!(rate >= 0)) throw broken(op, `learningRates[${i}]`, "a number ≥ 0", rate);
  for (const [name, beta] of Object.entries({ beta1, beta2 }))
    if (!(beta >= 0 && beta < 1)) throw broken(op, name, "from 0 to below 1", beta);
  if (!(epsilon > 0)) throw broken(op, "epsilon", "a number > 0, which keeps a zero gradient finite", epsilon);
  if (!(weightDecay >= 0)) throw broken(op, "weightDecay", "a number ≥ 0", weightDecay);
  if (!(maxNorm >= 0)) throw broken(op, "maxNorm", "a number ≥ 0 (0: no clipping)", maxNorm);
}
