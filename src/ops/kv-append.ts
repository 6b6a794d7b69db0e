// cache[rows[i]] = x[i]. Rows are distinct and inside the cache (else the caller's bug; kernels must not write outside).

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { FLOATS, type Op, type SampleMaker } from "./op.ts";

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
  reference({ x, rows, cache }) {
    for (const [i, row] of readMatrix(rows).entries())
      if (row >= 0 && row < cache.rows) writeMatrix(rowSlice(cache, row, row + 1), readMatrix(rowSlice(x, i, i + 1)));
  },
  samples: [
    { name: "one of everything", dtypes: FLOATS, make: (m) => sampleCall(m, [0], 1, 1) },
    { name: "scattered rows", dtypes: FLOATS, make: (m) => sampleCall(m, [10, 0, 7], 11, 67) },
    { name: "rows outside are dropped", dtypes: FLOATS, make: (m) => sampleCall(m, [-1, 2, 5, 2 ** 31 - 1], 5, 64) },
  ],
  badSamples: [
    {
      name: "a cache of another width",
      make: (m) => ({ ...sampleCall(m, [0], 3, 4), cache: m.output("acc", m.dtype, 3, 5) }),
    },
  ],
  tolerance: "exact",
  cost({ x, cache }) {
    const values = x.rows * x.cols;
    return { flops: 0, bytes: values * (BYTES_PER_ELEMENT[x.dtype] + BYTES_PER_ELEMENT[cache.dtype]) + 4 * x.rows };
  },
};

function sampleCall(m: SampleMaker, rows: number[], cacheRows: number, cols: number): KvAppendArgs {
  return {
    x: m.normal(m.dtype, rows.length, cols),
    rows: m.values("i32", rows.length, 1, rows),
    cache: m.output("acc", m.dtype, cacheRows, cols),
  };
}
