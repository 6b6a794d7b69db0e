// Rotary embedding (arXiv 2104.09864), halves layout: for i < D/2 in each head,
//   y_i = x_i·cos_i − x_{i+D/2}·sin_i,  y_{i+D/2} = x_{i+D/2}·cos_i + x_i·sin_i.
// direction "backward" rotates by the opposite angle: a rotation's transpose is its inverse, so this op is its own gradient.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface RopeArgs {
  /** [N, H·D] */
  readonly x: Tensor;
  /** f32 [N, D] */
  readonly cosSin: Tensor;
  /** [N, H·D]; may be x */
  readonly y: Tensor;
  /** Sign of the angle. */
  readonly direction: "forward" | "backward";
}

export const rope: Op<RopeArgs> = {
  name: "rope",
  signature: {
    x: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    cosSin: { access: "in", dims: ["N", "D"], dtypes: ["f64", "f32"] },
    y: { access: "out", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["x"] },
  },
  gradient: {
    op: "rope",
    args: { x: { gradientOf: "y" }, cosSin: "cosSin", y: { gradientOf: "x" } },
    attributes: { direction: "backward" },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
