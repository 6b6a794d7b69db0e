// AdamW (arXiv 1711.05101) over the row window [from, to): rows outside keep weights, moments and counters to the bit.
// With g = gradientScale·gradient and n = steps[row] (this update included):
//   m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²;  p −= lr·( (m/(1−β₁ⁿ)) / (√(v/(1−β₂ⁿ)) + ε) + decay·p ).
// Each row counts its own updates, so a row that is seldom drawn is not under-corrected. `copy` receives the new p in the compute dtype.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

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
  // TODO-R reference, samples, badSamples, tolerance, cost
};
