// y[n] = table[tokens[n]]: rows gathered by index. Also picks the rows whose logits are wanted. A token outside
// 0..V−1 is the caller's bug; kernels must not read outside the table (the row becomes 0).

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface EmbedArgs {
  /** [V, C] */
  readonly table: Tensor;
  /** i32 [N, 1] */
  readonly tokens: Tensor;
  /** [N, C]; may have another float dtype than the table */
  readonly y: Tensor;
}

export const embed: Op<EmbedArgs> = {
  name: "embed",
  signature: {
    table: { access: "in", dims: ["V", "C"], dtypes: ["f64", "f32", "bf16"] },
    tokens: { access: "in", dims: ["N", "1"], dtypes: ["i32"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
