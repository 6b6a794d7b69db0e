// Head and loss in one, in chunks of rows, so that the [N, V] logits never exist (as in arXiv 2410.10989).
//   z = x·weightᵀ;  loss_n = log Σ_v e^{z_nv} − z_n,target   (stable: the row maximum is subtracted);
//   dx_n = tokenWeight_n · Σ_v (softmax(z_n)_v − [v = target]) · weight_v   if dx is given.
// Rows whose target is −1 are not supervised: loss 0, dx 0. The gradient is taken in the forward, so its factor
// (tokenWeight: 1/supervised tokens of the whole optimizer step) must be known then. `loss` is not weighted.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface LinearCrossEntropyArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [V, C] */
  readonly weight: Tensor;
  /** i32 [N, 1]; −1: not supervised */
  readonly targets: Tensor;
  /** f32 [N, 1] */
  readonly tokenWeights: Tensor;
  /** f32 [N, 1] */
  readonly loss: Tensor;
  /** [N, C] or null for evaluation */
  readonly dx: Tensor | null;
}

export const linearCrossEntropy: Op<LinearCrossEntropyArgs> = {
  name: "linearCrossEntropy",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["V", "C"], dtypes: ["f64", "f32", "bf16"] },
    targets: { access: "in", dims: ["N", "1"], dtypes: ["i32"] },
    tokenWeights: { access: "in", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    loss: { access: "out", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    dx: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"], optional: true },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
