// y = value in every element.

import { writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, type Op } from "./op.ts";

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
  validate({ y, value }) {
    if (y.dtype === "i32" && !Number.isInteger(value)) throw broken(fill, "value", "a whole number for i32", value);
  },
  reference({ y, value }) {
    writeMatrix(y, new Float64Array(y.rows * y.cols).fill(value));
  },
  samples: [],
  badSamples: [],
  tolerance: "exact",
  cost: (args) => ({ flops: 0, bytes: bytesOf(args) }),
};
