// y = value in every element.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface FillArgs {
  /** [*, *] */
  readonly y: Tensor;
  /** The value. */
  readonly value: number;
}

export const fill: Op<FillArgs> = {
  name: "fill",
  signature: {
    y: { access: "out", dims: ["*", "*"], dtypes: ["f64", "f32", "bf16", "i32"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
