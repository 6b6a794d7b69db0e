// y = a + b. The gradient of both terms is the gradient of the sum.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface AddArgs {
  /** [N, C] */
  readonly a: Tensor;
  /** [N, C] */
  readonly b: Tensor;
  /** [N, C] */
  readonly y: Tensor;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [64, 192],
] as const;

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
  samples: [
    ...sampleSizes.map(([n, c]) => ({
      name: `${n}×${c}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({ ...sampleTerms(m, n, c), y: m.output("out", m.dtype, n, c) }),
    })),
    {
      name: "into a",
      dtypes: FLOATS,
      make(m) {
        const terms = sampleTerms(m, 5, 67);
        return { ...terms, y: terms.a };
      },
    },
    {
      name: "into b",
      dtypes: FLOATS,
      make(m) {
        const terms = sampleTerms(m, 5, 67);
        return { ...terms, y: terms.b };
      },
    },
    {
      name: "NaN and infinity",
      dtypes: FLOATS,
      make: (m) => ({
        a: m.values(m.dtype, 1, 4, [Number.NaN, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 1]),
        b: m.values(m.dtype, 1, 4, [1, 1, Number.NEGATIVE_INFINITY, 2]),
        y: m.output("out", m.dtype, 1, 4),
      }),
    },
  ],
  badSamples: [
    {
      name: "another width",
      make: (m) => ({ ...sampleTerms(m, 2, 3), y: m.output("out", m.dtype, 2, 4) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};

const sampleTerms = (m: SampleMaker, n: number, c: number) => ({
  a: m.normal(m.dtype, n, c),
  b: m.normal(m.dtype, n, c),
});
