// y = x rounded to y's dtype (bf16: nearest even). Same shape.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op } from "./op.ts";

export interface CastArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [N, C], any float dtype */
  readonly y: Tensor;
}

export const cast: Op<CastArgs> = {
  name: "cast",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  reference({ x, y }) {
    writeMatrix(y, readMatrix(x));
  },
  samples: [],
  badSamples: [],
  tolerance: "exact",
  cost: (args) => ({ flops: 0, bytes: bytesOf(args) }),
};
