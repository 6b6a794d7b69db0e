// y[n] = scale·table[tokens[n]]: rows gathered by index. Also picks the rows whose logits are wanted. A token outside
// 0..V−1 is the caller's bug; kernels must not read outside the table (the row becomes 0). Scale and product are rounded to
// f32 (but in f64), the product then to y's dtype. Gemma scales by √C, rounded to the dtype of its checkpoint.

import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { broken, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface EmbedArgs {
  /** [V, C] */
  readonly table: Tensor;
  /** i32 [N, 1] */
  readonly tokens: Tensor;
  /** [N, C]; may have another float dtype than the table */
  readonly y: Tensor;
  /** 1 where rows are only gathered. */
  readonly scale: number;
}

export const embed: Op<EmbedArgs> = {
  name: "embed",
  signature: {
    table: { access: "in", dims: ["V", "C"], dtypes: ["f64", "f32", "bf16"] },
    tokens: { access: "in", dims: ["N", "1"], dtypes: ["i32"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  validate({ scale }) {
    if (!Number.isFinite(scale)) throw broken(embed, "scale", "a finite number", scale);
  },
  reference({ table, tokens, y, scale }) {
    const scaled = (value: number) => (table.dtype === "f64" ? scale * value : Math.fround(Math.fround(scale) * value));
    const picked = readMatrix(tokens);
    const out = new Float64Array(y.rows * y.cols);
    for (const [n, token] of picked.entries())
      if (token >= 0 && token < table.rows)
        out.set(readMatrix(rowSlice(table, token, token + 1)).map(scaled), n * y.cols);
    writeMatrix(y, out);
  },
  samples: [
    { name: "one of everything", dtypes: FLOATS, make: (m) => sampleCall(m, m.dtype, [0], 1, 1) },
    { name: "prime sizes", dtypes: FLOATS, make: (m) => sampleCall(m, m.dtype, [10, 0, 3, 3, 7], 11, 13) },
    { name: "wide rows", dtypes: FLOATS, make: (m) => sampleCall(m, m.dtype, [2, 1, 2], 3, 193) },
    {
      name: "tokens outside",
      dtypes: FLOATS,
      make: (m) => sampleCall(m, m.dtype, [-1, 4, 5, 2 ** 31 - 1, -(2 ** 31)], 5, 66),
    },
    { name: "bf16 table", dtypes: FLOATS, make: (m) => sampleCall(m, "bf16", [4, 0, 1], 5, 65) },
    { name: "f32 table", dtypes: FLOATS, make: (m) => sampleCall(m, "f32", [4, 0, 1], 5, 65) },
    ...(["bf16", "f32"] as const).map((dtype) => ({
      name: `${dtype} table, scaled`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({ ...sampleCall(m, dtype, [4, 0, -1, 1], 5, 67), scale: Math.sqrt(67) }),
    })),
  ],
  badSamples: [
    { name: "scale NaN", make: (m) => ({ ...sampleCall(m, m.dtype, [0, 1], 3, 4), scale: Number.NaN }) },
    {
      name: "another width",
      make: (m) => ({ ...sampleCall(m, m.dtype, [0, 1], 3, 4), y: m.output("out", m.dtype, 2, 5) }),
    },
    {
      name: "another number of tokens",
      make: (m) => ({ ...sampleCall(m, m.dtype, [0, 1], 3, 4), y: m.output("out", m.dtype, 3, 4) }),
    },
  ],
  tolerance: "exact",
  cost({ table, y }) {
    const values = y.rows * y.cols;
    return { flops: 0, bytes: values * (BYTES_PER_ELEMENT[table.dtype] + BYTES_PER_ELEMENT[y.dtype]) + 4 * y.rows };
  },
};

function sampleCall(m: SampleMaker, tableDtype: DType, tokens: number[], v: number, c: number): EmbedArgs {
  return {
    table: m.normal(tableDtype, v, c),
    tokens: m.values("i32", tokens.length, 1, tokens),
    y: m.output("out", m.dtype, tokens.length, c),
    scale: 1,
  };
}
