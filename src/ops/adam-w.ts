// AdamW (arXiv 1711.05101) over the row window [from, to): rows outside keep weights, moments and counters to the bit.
// With g = gradientScale·gradient and n = steps[row] (this update included):
//   m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²;  p −= lr·( (m/(1−β₁ⁿ)) / (√(v/(1−β₂ⁿ)) + ε) + decay·p ).
// Each row counts its own updates, so a row that is seldom drawn is not under-corrected. `copy` receives the new p in the compute dtype.

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { broken, type Op } from "./op.ts";

export interface AdamWArgs {
  /** f32 [R, C] */
  readonly param: Tensor;
  /** f32 [R, C] */
  readonly gradient: Tensor;
  /** f32 [R, C] */
  readonly m: Tensor;
  /** f32 [R, C] */
  readonly v: Tensor;
  /** i32 [R, 1]: updates of each row, this one included */
  readonly steps: Tensor;
  /** bf16 [R, C] or null */
  readonly copy: Tensor | null;
  /** First row updated. */
  readonly from: number;
  /** End of the rows updated. */
  readonly to: number;
  /** lr */
  readonly learningRate: number;
  /** β₁ */
  readonly beta1: number;
  /** β₂ */
  readonly beta2: number;
  /** ε */
  readonly epsilon: number;
  /** Decoupled decay, multiplied by lr. */
  readonly weightDecay: number;
  /** Clipping factor. */
  readonly gradientScale: number;
}

export const adamW: Op<AdamWArgs> = {
  name: "adamW",
  signature: {
    param: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    gradient: { access: "in", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    m: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    v: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    steps: { access: "in", dims: ["R", "1"], dtypes: ["i32"] },
    copy: { access: "acc", dims: ["R", "C"], dtypes: ["bf16"], optional: true },
  },
  validate({ param, from, to, learningRate, beta1, beta2, epsilon, weightDecay, gradientScale }) {
    if (!Number.isInteger(from) || from < 0) throw broken(adamW, "from", "a whole number ≥ 0", from);
    if (!Number.isInteger(to) || to < from || to > param.rows)
      throw broken(adamW, "to", `from ${from} to ${param.rows} rows`, to);
    if (!(learningRate >= 0)) throw broken(adamW, "learningRate", "a number ≥ 0", learningRate);
    for (const [name, beta] of Object.entries({ beta1, beta2 }))
      if (!(beta >= 0 && beta < 1)) throw broken(adamW, name, "from 0 to below 1", beta);
    if (!(epsilon > 0)) throw broken(adamW, "epsilon", "a number > 0, which keeps a zero gradient finite", epsilon);
    if (!(weightDecay >= 0)) throw broken(adamW, "weightDecay", "a number ≥ 0", weightDecay);
    if (!Number.isFinite(gradientScale)) throw broken(adamW, "gradientScale", "a finite number", gradientScale);
  },
  reference(args) {
    const { learningRate, beta1, beta2, epsilon, weightDecay, gradientScale } = args;
    for (let row = args.from; row < args.to; row++) {
      const rowOf = (tensor: Tensor) => rowSlice(tensor, row, row + 1);
      const [p, g, m, v] = [args.param, args.gradient, args.m, args.v].map((tensor) => readMatrix(rowOf(tensor)));
      const n = readMatrix(rowOf(args.steps))[0]!;
      for (let c = 0; c < args.param.cols; c++) {
        const gradient = gradientScale * g![c]!;
        m![c] = beta1 * m![c]! + (1 - beta1) * gradient;
        v![c] = beta2 * v![c]! + (1 - beta2) * gradient * gradient;
        const mHat = m![c]! / (1 - beta1 ** n);
        const vHat = v![c]! / (1 - beta2 ** n);
        p![c]! -= learningRate * (mHat / (Math.sqrt(vHat) + epsilon) + weightDecay * p![c]!);
      }
      writeMatrix(rowOf(args.param), p!);
      writeMatrix(rowOf(args.m), m!);
      writeMatrix(rowOf(args.v), v!);
      if (args.copy) writeMatrix(rowOf(args.copy), p!);
    }
  },
  samples: [],
  badSamples: [],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some ten f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "the copy is one rounding of the new weight, at most 2⁻⁹ of it" },
  },
  cost({ param, copy, from, to }) {
    const values = (to - from) * param.cols;
    return {
      flops: 14 * values,
      bytes: values * (7 * BYTES_PER_ELEMENT[param.dtype] + (copy ? 2 : 0)) + 4 * (to - from),
    };
  },
};
