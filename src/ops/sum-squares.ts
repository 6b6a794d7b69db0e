// sum = Σ x² over all tensors of a list, accumulated in f64 or in f32 by tiles in a fixed order. For the gradient norm.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op, type SampleMaker } from "./op.ts";

export interface SumSquaresArgs {
  /** [R, C_i] */
  readonly xs: readonly Tensor[];
  /** [1, 1] */
  readonly sum: Tensor;
}

export const sumSquares: Op<SumSquaresArgs> = {
  name: "sumSquares",
  signature: {
    xs: { access: "in", dims: ["R", "C"], dtypes: ["f64", "f32"], list: { varying: ["C"] } },
    sum: { access: "out", dims: ["1", "1"], dtypes: ["f64", "f32"] },
  },
  reference({ xs, sum }) {
    const squares = (x: Tensor) => readMatrix(x).reduce((total, value) => total + value * value, 0);
    writeMatrix(sum, [xs.reduce((total, x) => total + squares(x), 0)]);
  },
  samples: [
    [1, 1],
    [1, 10_007],
    [3, 7],
    [61, 129],
    [64, 2048],
    [5, 1, 300, 64],
    [0, 12],
  ].map(([rows, ...widths]) => ({
    name: `${rows}×${widths.join(" and ")}`,
    dtypes: ["f64", "f32"],
    make: (m: SampleMaker) => ({
      xs: widths.map((cols) => m.normal(m.dtype, rows!, cols)),
      sum: m.output("out", m.dtype, 1, 1),
    }),
  })),
  badSamples: [
    { name: "a sum of two", make: (m) => ({ xs: [m.normal("f32", 2, 3)], sum: m.output("out", "f32", 1, 2) }) },
    { name: "bf16", make: (m) => ({ xs: [m.normal("bf16", 2, 3)], sum: m.output("out", "f32", 1, 1) }) },
    {
      name: "tensors of unlike height",
      make: (m) => ({ xs: [m.normal("f32", 2, 3), m.normal("f32", 3, 3)], sum: m.output("out", "f32", 1, 1) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-13, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-6, worst: 1e-6, reason: "all terms are positive: nothing cancels, tiles are short" },
  },
  cost: (args) => ({ flops: args.xs.reduce((sum, x) => sum + 2 * x.rows * x.cols, 0), bytes: bytesOf(args) }),
};
