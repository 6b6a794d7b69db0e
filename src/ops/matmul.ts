// y = x·weightᵀ, dense. For logits. The weight is used as it is stored, whatever the dtype of x.

import type { DType } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";
import { timesTransposed } from "./products.ts";

export interface MatmulArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** [M, K] */
  readonly weight: Tensor;
  /** [N, M], f32 */
  readonly y: Tensor;
}

const sampleSizes = [
  [1, 1, 1],
  [3, 7, 13],
  [1, 1031, 129],
  [33, 65, 192],
  [130, 259, 448],
] as const;

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
  samples: [
    ...sampleSizes.map(([n, m, k]) => ({
      name: `${n}×${m}×${k}`,
      dtypes: FLOATS,
      make: (maker: SampleMaker) => sampleCall(maker, maker.dtype, n, m, k),
    })),
    { name: "bf16 weight", dtypes: FLOATS, make: (m) => sampleCall(m, "bf16", 5, 67, 130) },
    { name: "f32 weight", dtypes: FLOATS, make: (m) => sampleCall(m, "f32", 5, 67, 130) },
  ],
  badSamples: [
    {
      name: "a weight of another depth",
      make: (m) => ({ ...sampleCall(m, m.dtype, 2, 3, 4), weight: m.normal(m.dtype, 3, 5) }),
    },
  ],
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

function sampleCall(maker: SampleMaker, weightDtype: DType, n: number, m: number, k: number): MatmulArgs {
  return {
    x: maker.normal(maker.dtype, n, k),
    weight: maker.normal(weightDtype, m, k),
    y: maker.output("out", statisticsDtype(maker.dtype), n, m),
  };
}
