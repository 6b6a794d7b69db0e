// y = deq(W): table[code]·absmax in f32, then rounded once to y's dtype. Dense weights are copied.

import type { Tensor } from "../tensor/tensor.ts";
import type { FrozenWeight } from "./frozen-weight.ts";
import type { Op } from "./op.ts";

export interface DequantizeArgs {
  /** [M, K] in any base format */
  readonly weight: FrozenWeight;
  /** [M, K] */
  readonly y: Tensor;
}

export const dequantize: Op<DequantizeArgs> = {
  name: "dequantize",
  signature: {
    y: { access: "out", dims: ["M", "K"], dtypes: ["f64", "f32", "bf16"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
