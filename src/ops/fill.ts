// y = value in every element.

import { writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface FillArgs {
  /** [*, *] */
  readonly y: Tensor;
  /** The value. */
  readonly value: number;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [64, 192],
] as const;

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
  samples: [
    ...sampleSizes.map(([rows, cols]) => ({
      name: `${rows}×${cols}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({ y: m.output("out", m.dtype, rows, cols), value: -1 / 3 }),
    })),
    { name: "integers", dtypes: ["f32"], make: (m) => ({ y: m.output("out", "i32", 3, 5), value: -7 }) },
    {
      name: "NaN",
      dtypes: FLOATS,
      make: (m) => ({ y: m.values(m.dtype, 3, 5, new Float64Array(15)), value: Number.NaN }),
    },
  ],
  badSamples: [
    { name: "a fraction in i32", make: (m) => ({ y: m.output("out", "i32", 2, 2), value: 0.5 }) },
    { name: "bytes", make: (m) => ({ y: m.output("out", "u8", 2, 2), value: 1 }) },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: 0, bytes: bytesOf(args) }),
};
