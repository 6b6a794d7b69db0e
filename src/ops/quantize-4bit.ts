// Block-wise 4-bit quantisation, bit-compatible with bitsandbytes: blocks of 64 consecutive values in row-major order,
// absmax = max|w|; code = nearest level of x = w·(1/max(absmax, 1e-38)), both operations rounded to f32. A tie goes to the
// LOWER level (nf4) or the smaller magnitude (fp4; its sign bit is x < 0): code-books.ts has tables and thresholds. The
// first value is in the HIGH nibble; an odd count is padded with one zero value. An all-zero block: absmax 0, the code of 0
// (7 in nf4, 0 in fp4). Every backend gives the same bits.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type FourBitFormat, fourBitCode, NF4_MIDPOINTS } from "./code-books.ts";
import { QUANT_BLOCK } from "./frozen-weight.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface Quantize4bitArgs {
  /** [M, K] */
  readonly w: Tensor;
  /** u8 [1, ceil(M·K/2)] */
  readonly codes: Tensor;
  /** f32 [1, ceil(M·K/64)] */
  readonly absmax: Tensor;
  /** The code-book. */
  readonly format: FourBitFormat;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [1, 65],
  [5, 97],
  [33, 192],
] as const;

/** Five blocks: thresholds and their neighbours under absmax 1, zeros of both signs, a subnormal, a tiny and a huge absmax. */
const sampleSpecials = [
  ...[...NF4_MIDPOINTS].flatMap((tie) => [tie, tie * (1 + 2 ** -23), tie * (1 - 2 ** -23), -tie]),
  ...[1, -1, 0, -0],
  ...Array.from({ length: QUANT_BLOCK }, (_, i) => (i % 2 === 0 ? 0 : -0)),
  ...[1e-39, -3e-37, 2e36].flatMap((size) => Array.from({ length: QUANT_BLOCK }, (_, i) => size * Math.cos(i))),
];

export const quantize4bit: Op<Quantize4bitArgs> = {
  name: "quantize4bit",
  signature: {
    w: { access: "in", dims: ["M", "K"], dtypes: ["f64", "f32", "bf16"] },
    codes: { access: "out", dims: ["1", "*"], dtypes: ["u8"] },
    absmax: { access: "out", dims: ["1", "*"], dtypes: ["f32"] },
  },
  validate({ w, codes, absmax, format }) {
    const values = w.rows * w.cols;
    if (format !== "nf4" && format !== "fp4") throw broken(quantize4bit, "format", "nf4 or fp4", format);
    if (codes.cols !== Math.ceil(values / 2))
      throw broken(quantize4bit, "codes.cols", `${Math.ceil(values / 2)}, two codes a byte`, codes.cols);
    if (absmax.cols !== Math.ceil(values / QUANT_BLOCK))
      throw broken(quantize4bit, "absmax.cols", `${Math.ceil(values / QUANT_BLOCK)} blocks`, absmax.cols);
  },
  reference({ w, codes, absmax, format }) {
    const values = readMatrix(w).map(Math.fround);
    const largest = blockAbsmax(values, QUANT_BLOCK);
    const code = (i: number) =>
      fourBitCode(format, Math.fround((values[i] ?? 0) * reciprocal(largest[Math.floor(i / QUANT_BLOCK)] ?? 0)));
    writeMatrix(absmax, largest);
    writeMatrix(
      codes,
      Float64Array.from({ length: codes.cols }, (_, i) => code(2 * i) * 16 + code(2 * i + 1)),
    );
  },
  samples: (["nf4", "fp4"] as const).flatMap((format) => [
    ...sampleSizes.map(([rows, cols]) => ({
      name: `${format}, ${rows}×${cols}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, m.normal(m.dtype, rows, cols, 0.05), format),
    })),
    {
      name: `${format}, ties, zeros, tiny and huge blocks`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, m.values(m.dtype, 5, QUANT_BLOCK, sampleSpecials), format),
    },
  ]),
  badSamples: [
    {
      name: "too few codes",
      make: (m) => ({ ...sampleCall(m, m.normal("f32", 3, 5), "nf4"), codes: m.output("out", "u8", 1, 7) }),
    },
    {
      name: "too many scales",
      make: (m) => ({ ...sampleCall(m, m.normal("f32", 3, 5), "nf4"), absmax: m.output("out", "f32", 1, 2) }),
    },
    { name: "no such format", make: (m) => sampleCall(m, m.normal("f32", 3, 5), "int4" as "nf4") },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: 3 * args.w.rows * args.w.cols, bytes: bytesOf(args) }),
};

/** max|x| of blocks of consecutive values; the last one may be short. */
export function blockAbsmax(values: Float64Array, block: number): Float64Array {
  return Float64Array.from({ length: Math.ceil(values.length / block) }, (_, i) =>
    values.subarray(i * block, (i + 1) * block).reduce((most, value) => Math.max(most, Math.abs(value)), 0),
  );
}

/** 1/absmax in f32. The floor 1e-38 (bitsandbytes' own) keeps a zero block's values at 0 instead of 0·∞ = NaN. */
export const reciprocal = (absmax: number): number => Math.fround(1 / Math.max(absmax, Math.fround(1e-38)));

function sampleCall(m: SampleMaker, w: Tensor, format: FourBitFormat): Quantize4bitArgs {
  const values = w.rows * w.cols;
  return {
    w,
    codes: m.output("out", "u8", 1, Math.ceil(values / 2)),
    absmax: m.output("out", "f32", 1, Math.ceil(values / QUANT_BLOCK)),
    format,
  };
}
