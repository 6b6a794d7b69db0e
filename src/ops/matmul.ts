// y = x·weightᵀ, dense. For logits.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op } from "./op.ts";
import { timesTransposed } from "./products.ts";

export interface MatmulArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** [M, K] */
  readonly weight: Tensor;
  /** [N, M], f32 */
  readonly y: Tensor;
}

export const matmul: Op<MatmulArgs> = {
  name: "matmul",
  signature: {
    x: { access: "in", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["M", "K"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "M"], dtypes: ["f64", "f32"] },
  },
  reference({ x, weight, y }) {
    writeMatrix(y, timesTransposed(readMatrix(x), readMatrix(weight), y.rows, y.cols, x.cols));
  },
  samples: [],
  badSamples: [],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-12, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-5, worst: 1e-4, reason: "f32 sums over up to some thousand terms in any order" },
    bf16: {
      normalised: 1e-2,
      worst: 5e-2,
      reason: "outputs, and factors on the way to them, rounded to bf16 (2⁻⁹ each)",
    },
  },
  cost: (args) => ({ flops: 2 * args.y.rows * args.y.cols * args.x.cols, bytes: bytesOf(args) }),
  rowsOf: ({ x, weight, y }, from, to) => ({ x: rowSlice(x, from, to), weight, y: rowSlice(y, from, to) }),
};
