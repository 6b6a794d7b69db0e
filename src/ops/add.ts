// y = a + b. The gradient of both terms is the gradient of the sum.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op } from "./op.ts";

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
  reference({ a, b, y }) {
    const right = readMatrix(b);
    writeMatrix(
      y,
      readMatrix(a).map((left, i) => left + right[i]!),
    );
  },
  samples: [],
  badSamples: [],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};
