// y = deq(W): table[code]·absmax in f32, then rounded once to y's dtype. Dense weights are copied.

import { writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { checkFrozenWeight, decodeWeight, type FrozenWeight } from "./frozen-weight.ts";
import { broken, bytesOf, type Op } from "./op.ts";

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
  validate({ weight, y }) {
    checkFrozenWeight(dequantize, "weight", weight);
    if (weight.rows !== y.rows || weight.cols !== y.cols)
      throw broken(dequantize, "y", `${weight.rows}×${weight.cols}, as the weight`, `${y.rows}×${y.cols}`);
  },
  reference({ weight, y }) {
    writeMatrix(y, decodeWeight(weight));
  },
  samples: [],
  badSamples: [],
  tolerance: "exact",
  cost: (args) => ({ flops: args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};
