// Block-wise 4-bit quantisation, bit-compatible with bitsandbytes: blocks of 64 consecutive values in row-major order,
// absmax = max|w|; code = nearest level of x = w·(1/max(absmax, 1e-38)), both operations rounded to f32. A tie goes to the
// LOWER level (nf4) or the smaller magnitude (fp4; its sign bit is x < 0): code-books.ts has tables and thresholds. The
// first value is in the HIGH nibble; an odd count is padded with one zero value. An all-zero block: absmax 0, the code of 0
// (7 in nf4, 0 in fp4). Every backend gives the same bits.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type FourBitFormat, fourBitCode } from "./code-books.ts";
import { QUANT_BLOCK } from "./frozen-weight.ts";
import { broken, bytesOf, type Op } from "./op.ts";

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
  samples: [],
  badSamples: [],
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
