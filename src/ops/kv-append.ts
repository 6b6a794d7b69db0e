// cache[rows[i]] = x[i]. Rows are distinct and inside the cache (else the caller's bug; kernels must not write outside).

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface KvAppendArgs {
  /** [Q, G·D] */
  readonly x: Tensor;
  /** i32 [Q, 1] */
  readonly rows: Tensor;
  /** [T, G·D]; other rows keep their values */
  readonly cache: Tensor;
}

export const kvAppend: Op<KvAppendArgs> = {
  name: "kvAppend",
  signature: {
    x: { access: "in", dims: ["Q", "GD"], dtypes: ["f64", "f32", "bf16"] },
    rows: { access: "in", dims: ["Q", "1"], dtypes: ["i32"] },
    cache: { access: "acc", dims: ["T", "GD"], dtypes: ["f64", "f32", "bf16"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
