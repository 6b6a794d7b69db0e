// y = x rounded to y's dtype (bf16: nearest even). Same shape.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface CastArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [N, C], any float dtype */
  readonly y: Tensor;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
] as const;

const sampleTargets = ["f32", "bf16"] as const;

/** Signed zeros, infinities, NaN, ties of bf16 (to even, both ways), overflow on rounding, subnormals. */
const sampleSpecials = [
  0,
  -0,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
  1 + 2 ** -8,
  1 + 3 * 2 ** -8,
  1 + 2 ** -8 + 2 ** -20,
  -1 - 2 ** -8,
  3.4e38,
  -3.4e38,
  1e-40,
  -1e-40,
  1e-45,
];

export const cast: Op<CastArgs> = {
  name: "cast",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  reference({ x, y }) {
    writeMatrix(y, readMatrix(x));
  },
  samples: [
    ...sampleSizes.flatMap(([rows, cols]) =>
      sampleTargets.map((target) => ({
        name: `${rows}×${cols} to ${target}`,
        dtypes: FLOATS,
        make: (m: SampleMaker) => ({ x: m.normal(m.dtype, rows, cols), y: m.output("out", target, rows, cols) }),
      })),
    ),
    ...sampleTargets.map((target) => ({
      name: `special values to ${target}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({
        x: m.values(m.dtype, 1, sampleSpecials.length, sampleSpecials),
        y: m.output("out", target, 1, sampleSpecials.length),
      }),
    })),
  ],
  badSamples: [
    {
      name: "another shape",
      make: (m) => ({ x: m.normal(m.dtype, 2, 3), y: m.output("out", m.dtype, 3, 2) }),
    },
    { name: "integers", make: (m) => ({ x: m.integers("i32", 2, 3, 0, 9), y: m.output("out", m.dtype, 2, 3) }) },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: 0, bytes: bytesOf(args) }),
};
