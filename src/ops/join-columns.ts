// y's columns from parts, in the order in which splitColumns takes them apart: each op is the other's backward.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";
import { checkSplit, columnsOfParts, SPLIT_SHAPES } from "./split-columns.ts";

export interface JoinColumnsArgs {
  /** [N, M_i] each; `groups` divides every M_i */
  readonly parts: readonly Tensor[];
  /** [N, C], C = Σ M_i */
  readonly y: Tensor;
  readonly groups: number;
}

export const joinColumns: Op<JoinColumnsArgs> = {
  name: "joinColumns",
  signature: {
    parts: { access: "in", dims: ["N", "M"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["M"] } },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  gradient: { op: "splitColumns", args: { x: { gradientOf: "y" }, parts: { gradientOf: "parts" } } },
  validate: ({ parts, y, groups }) => checkSplit(joinColumns, { name: "y", tensor: y }, parts, groups),
  reference({ parts, y, groups }) {
    const out = new Float64Array(y.rows * y.cols);
    const columns = columnsOfParts(parts, groups);
    for (const [i, part] of parts.entries())
      for (const [at, value] of readMatrix(part).entries())
        out[Math.floor(at / part.cols) * y.cols + columns[i]![at % part.cols]!] = value;
    writeMatrix(y, out);
  },
  samples: SPLIT_SHAPES.map(({ n, widths, groups }) => ({
    name: `${n} rows of ${widths.join(" + ")} in ${groups}`,
    dtypes: FLOATS,
    make: (m: SampleMaker) => sampleCall(m, n, widths, groups),
  })),
  badSamples: [
    { name: "groups that do not divide", make: (m) => sampleCall(m, 2, [6, 4], 3) },
    { name: "a column too few", make: (m) => ({ ...sampleCall(m, 2, [6, 3], 1), y: m.output("out", m.dtype, 2, 8) }) },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: 0, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, n: number, widths: readonly number[], groups: number): JoinColumnsArgs {
  const cols = widths.reduce((a, b) => a + b, 0);
  return { parts: widths.map((width) => m.normal(m.dtype, n, width)), y: m.output("out", m.dtype, n, cols), groups };
}
