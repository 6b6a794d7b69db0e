// y = x·weightᵀ, dense. For logits.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface MatmulArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** [M, K] */
  readonly weight: Tensor;
  /** [N, M], f32 */
  readonly y: Tensor;
}

export const matmul: Op<MatmulArgs> = {
  name: "matmul",
  signature: {
    x: { access: "in", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["M", "K"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "M"], dtypes: ["f64", "f32"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
