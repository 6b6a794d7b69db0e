// Block-wise 4-bit quantisation, bit-compatible with bitsandbytes: blocks of 64 consecutive values in row-major order,
// absmax = max|w|; code = nearest level of w·(1/absmax) in f32, a tie goes to the LOWER level (nf4), first value in the HIGH nibble;
// an odd count is padded with one zero value. An all-zero block: absmax 0, the code of 0.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface Quantize4bitArgs {
  /** [M, K] */
  readonly w: Tensor;
  /** u8 [1, ceil(M·K/2)] */
  readonly codes: Tensor;
  /** f32 [1, ceil(M·K/64)] */
  readonly absmax: Tensor;
  /** The code-book. */
  readonly format: "nf4" | "fp4";
}

export const quantize4bit: Op<Quantize4bitArgs> = {
  name: "quantize4bit",
  signature: {
    w: { access: "in", dims: ["M", "K"], dtypes: ["f64", "f32", "bf16"] },
    codes: { access: "out", dims: ["1", "*"], dtypes: ["u8"] },
    absmax: { access: "out", dims: ["1", "*"], dtypes: ["f32"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
