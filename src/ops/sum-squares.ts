// sum = Σ x², accumulated in f64 or in f32 by tiles in a fixed order. For the gradient norm (clipping).

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op } from "./op.ts";

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
  reference({ x, sum }) {
    writeMatrix(sum, [readMatrix(x).reduce((total, value) => total + value * value, 0)]);
  },
  samples: [],
  badSamples: [],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-13, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-6, worst: 1e-6, reason: "all terms are positive: nothing cancels, tiles are short" },
  },
  cost: (args) => ({ flops: 2 * args.x.rows * args.x.cols, bytes: bytesOf(args) }),
};
