// y[n] = table[tokens[n]]: rows gathered by index. Also picks the rows whose logits are wanted. A token outside
// 0..V−1 is the caller's bug; kernels must not read outside the table (the row becomes 0).

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
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
  reference({ table, tokens, y }) {
    const picked = readMatrix(tokens);
    const out = new Float64Array(y.rows * y.cols);
    for (const [n, token] of picked.entries())
      if (token >= 0 && token < table.rows) out.set(readMatrix(rowSlice(table, token, token + 1)), n * y.cols);
    writeMatrix(y, out);
  },
  samples: [],
  badSamples: [],
  tolerance: "exact",
  cost({ table, y }) {
    const values = y.rows * y.cols;
    return { flops: 0, bytes: values * (BYTES_PER_ELEMENT[table.dtype] + BYTES_PER_ELEMENT[y.dtype]) + 4 * y.rows };
  },
};
