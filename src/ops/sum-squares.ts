// sum = Σ x², accumulated in f64 or in f32 by tiles in a fixed order. For the gradient norm (clipping).

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op, type SampleMaker } from "./op.ts";

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
  samples: [
    [1, 1],
    [1, 10_007],
    [3, 7],
    [61, 129],
    [64, 2048],
  ].map(([rows, cols]) => ({
    name: `${rows}×${cols}`,
    dtypes: ["f64", "f32"],
    make: (m: SampleMaker) => ({ x: m.normal(m.dtype, rows!, cols!), sum: m.output("out", m.dtype, 1, 1) }),
  })),
  badSamples: [
    { name: "a sum of two", make: (m) => ({ x: m.normal("f32", 2, 3), sum: m.output("out", "f32", 1, 2) }) },
    { name: "bf16", make: (m) => ({ x: m.normal("bf16", 2, 3), sum: m.output("out", "f32", 1, 1) }) },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-13, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-6, worst: 1e-6, reason: "all terms are positive: nothing cancels, tiles are short" },
  },
  cost: (args) => ({ flops: 2 * args.x.rows * args.x.cols, bytes: bytesOf(args) }),
};
