// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)) per row. The weight is frozen: no gradient.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface RmsNormBackwardArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, C] */
  readonly weight: Tensor;
  /** [N, 1] */
  readonly rstd: Tensor;
  /** [N, C] */
  readonly dy: Tensor;
  /** [N, C], accumulated: the residual branch already wrote there */
  readonly dx: Tensor;
}

export const rmsNormBackward: Op<RmsNormBackwardArgs> = {
  name: "rmsNormBackward",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["1", "C"], dtypes: ["f64", "f32", "bf16"] },
    rstd: { access: "in", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    dy: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    dx: { access: "acc", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
