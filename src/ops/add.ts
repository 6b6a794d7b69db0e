// y = a + b. The gradient of both terms is the gradient of the sum.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface AddArgs {
  /** [N, C] */
  readonly a: Tensor;
  /** [N, C] */
  readonly b: Tensor;
  /** [N, C] */
  readonly y: Tensor;
}

export const add: Op<AddArgs> = {
  name: "add",
  signature: {
    a: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    b: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["a", "b"] },
  },
  gradient: "passThrough",
  // TODO-R reference, samples, badSamples, tolerance, cost
};
