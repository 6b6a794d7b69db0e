// Takes apart what one fused linear computed: x's columns are `groups` equal groups, each of them one piece of every part in
// turn; parts[i] gets its pieces side by side. With one group that is [q | k | v] or [gate | up]; Falcon-40B has a group per
// key/value head, [q … q k v], and GPT-NeoX one per head. Its backward puts the gradients together the same way: joinColumns.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Named, type Op, type SampleMaker } from "./op.ts";

export interface SplitColumnsArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [N, M_i] each; Σ M_i = C, and `groups` divides every M_i */
  readonly parts: readonly Tensor[];
  readonly groups: number;
}

/** Rows, widths of the parts, groups. */
export const SPLIT_SHAPES = [
  { n: 1, widths: [1], groups: 1 },
  { n: 3, widths: [7, 2, 5], groups: 1 },
  { n: 5, widths: [66, 22, 22], groups: 11 },
  { n: 17, widths: [129, 129], groups: 1 },
  { n: 33, widths: [640, 128, 128], groups: 2 },
] as const;

export const splitColumns: Op<SplitColumnsArgs> = {
  name: "splitColumns",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    parts: { access: "out", dims: ["N", "M"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["M"] } },
  },
  gradient: { op: "joinColumns", args: { parts: { gradientOf: "parts" }, y: { gradientOf: "x" } } },
  validate: ({ x, parts, groups }) => checkSplit(splitColumns, { name: "x", tensor: x }, parts, groups),
  reference({ x, parts, groups }) {
    const whole = readMatrix(x);
    const columns = columnsOfParts(parts, groups);
    for (const [i, part] of parts.entries())
      writeMatrix(
        part,
        Float64Array.from(
          { length: part.rows * part.cols },
          (_, at) => whole[Math.floor(at / part.cols) * x.cols + columns[i]![at % part.cols]!]!,
        ),
      );
  },
  samples: SPLIT_SHAPES.map(({ n, widths, groups }) => ({
    name: `${n} rows of ${widths.join(" + ")} in ${groups}`,
    dtypes: FLOATS,
    make: (m: SampleMaker) => sampleCall(m, n, widths, groups),
  })),
  badSamples: [
    { name: "groups that do not divide", make: (m) => sampleCall(m, 2, [6, 4], 3) },
    { name: "no group", make: (m) => ({ ...sampleCall(m, 2, [6, 3], 1), groups: 0 }) },
    { name: "a column too many", make: (m) => ({ ...sampleCall(m, 2, [6, 3], 1), x: m.normal(m.dtype, 2, 10) }) },
    { name: "no parts", make: (m) => ({ ...sampleCall(m, 2, [6, 3], 1), parts: [] }) },
    {
      name: "a part of another dtype",
      make: (m) => ({
        ...sampleCall(m, 2, [6], 1),
        parts: [m.output("out", m.dtype === "f32" ? "bf16" : "f32", 2, 6)],
      }),
    },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: 0, bytes: bytesOf(args) }),
};

/** Parts of one dtype that fill the whole, in groups that divide each of them. */
export function checkSplit(
  op: Named,
  whole: { readonly name: string; readonly tensor: Tensor },
  parts: readonly Tensor[],
  groups: number,
): void {
  if (!Number.isSafeInteger(groups) || groups < 1) throw broken(op, "groups", "a whole number ≥ 1", groups);
  if (parts.length < 1 || parts.length > 4) throw broken(op, "parts.length", "1 to 4", parts.length);
  for (const [i, { cols, dtype }] of parts.entries()) {
    if (cols % groups !== 0) throw broken(op, `parts[${i}].cols`, `a multiple of the ${groups} groups`, cols);
    if (dtype !== whole.tensor.dtype)
      throw broken(op, `parts[${i}].dtype`, `${whole.tensor.dtype}, as ${whole.name}`, dtype);
  }
  const sum = parts.reduce((total, { cols }) => total + cols, 0);
  if (sum !== whole.tensor.cols)
    throw broken(op, `${whole.name}.cols`, `${sum}, the columns of all parts`, whole.tensor.cols);
}

/** For every part, the column of the whole that each of its columns is. */
export function columnsOfParts(parts: readonly Tensor[], groups: number): number[][] {
  const pitch = parts.reduce((total, { cols }) => total + cols, 0) / groups;
  let from = 0;
  return parts.map(({ cols }) => {
    const width = cols / groups;
    const first = from;
    from += width;
    return Array.from({ length: cols }, (_, c) => Math.floor(c / width) * pitch + first + (c % width));
  });
}

function sampleCall(m: SampleMaker, n: number, widths: readonly number[], groups: number): SplitColumnsArgs {
  const cols = widths.reduce((a, b) => a + b, 0);
  return { x: m.normal(m.dtype, n, cols), parts: widths.map((width) => m.output("out", m.dtype, n, width)), groups };
}
