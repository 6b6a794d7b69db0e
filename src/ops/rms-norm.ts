// y = x · rstd · weight, rstd = 1/√(mean(x²) + eps) per row (arXiv 1910.07467, eq. 4). Computed in f32. rstd is saved.
// Backward: docs/math/rms-norm.md.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface RmsNormArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, C] */
  readonly weight: Tensor;
  /** [N, C] */
  readonly y: Tensor;
  /** [N, 1], f32 (f64 in gradient checks) */
  readonly rstd: Tensor;
  /** Added to the mean square: keeps a zero row finite. */
  readonly eps: number;
}

export const rmsNorm: Op<RmsNormArgs> = {
  name: "rmsNorm",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["1", "C"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    rstd: { access: "out", dims: ["N", "1"], dtypes: ["f64", "f32"] },
  },
  gradient: {
    op: "rmsNormBackward",
    args: { x: "x", weight: "weight", rstd: "rstd", dy: { gradientOf: "y" }, dx: { gradientOf: "x" } },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
