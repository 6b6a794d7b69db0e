// y = deq(W): table[code]·absmax in f32, then rounded once to y's dtype. Dense weights are copied.

import { writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  type BlockScales,
  checkFrozenWeight,
  decodeWeight,
  type FourBitWeight,
  type FrozenWeight,
} from "./frozen-weight.ts";
import { SAMPLE_FORMATS, type SampleFormat, sampleWeight } from "./linear-group-samples.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface DequantizeArgs {
  /** [M, K] in any base format */
  readonly weight: FrozenWeight;
  /** [M, K] */
  readonly y: Tensor;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [13, 97],
  [200, 129],
] as const;

export const dequantize: Op<DequantizeArgs> = {
  name: "dequantize",
  signature: {
    y: { access: "out", dims: ["M", "K"], dtypes: ["f64", "f32", "bf16"] },
  },
  validate({ weight, y }) {
    checkFrozenWeight(dequantize, "weight", weight);
    if (weight.format === "zero") throw broken(dequantize, "weight.format", "nf4, fp4, bf16 or f32", weight.format);
    if (weight.rows !== y.rows || weight.cols !== y.cols)
      throw broken(dequantize, "y", `${weight.rows}×${weight.cols}, as the weight`, `${y.rows}×${y.cols}`);
  },
  reference({ weight, y }) {
    writeMatrix(y, decodeWeight(weight));
  },
  samples: SAMPLE_FORMATS.flatMap((format) =>
    sampleSizes.map(([rows, cols]) => ({
      name: `${format}, ${rows}×${cols}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, format, rows, cols),
    })),
  ),
  badSamples: [
    {
      name: "another shape",
      make: (m) => ({ ...sampleCall(m, "nf4", 3, 5), y: m.output("out", m.dtype, 5, 3) }),
    },
    {
      name: "rows that its codes do not hold",
      make(m) {
        const weight = { ...sampleWeight(m, "nf4", 3, 5), rows: 4 };
        return { weight, y: m.output("out", m.dtype, 4, 5) };
      },
    },
    {
      name: "values of another dtype",
      make(m) {
        const weight: FrozenWeight = { format: "bf16", rows: 3, cols: 5, values: m.normal("f32", 3, 5) };
        return { weight, y: m.output("out", m.dtype, 3, 5) };
      },
    },
    {
      name: "no such format",
      make(m) {
        const weight = { ...sampleWeight(m, "nf4", 3, 5), format: "int4" } as unknown as FrozenWeight;
        return { weight, y: m.output("out", m.dtype, 3, 5) };
      },
    },
    {
      name: "an offset that is not a number",
      make(m) {
        const weight = sampleWeight(m, "nf4 double", 3, 5) as FourBitWeight;
        const scales = { ...weight.scales, offset: Number.NaN } as BlockScales;
        return { weight: { ...weight, scales }, y: m.output("out", m.dtype, 3, 5) };
      },
    },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};

const sampleCall = (m: SampleMaker, format: SampleFormat, rows: number, cols: number): DequantizeArgs => ({
  weight: sampleWeight(m, format, rows, cols),
  y: m.output("out", m.dtype, rows, cols),
});
