// sum = Σ x², accumulated in f64 or in f32 by tiles in a fixed order. For the gradient norm (clipping).

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface SumSquaresArgs {
  /** [R, C] */
  readonly x: Tensor;
  /** [1, 1] */
  readonly sum: Tensor;
}

export const sumSquares: Op<SumSquaresArgs> = {
  name: "sumSquares",
  signature: {
    x: { access: "in", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    sum: { access: "out", dims: ["1", "1"], dtypes: ["f64", "f32"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
