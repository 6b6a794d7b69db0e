// Begins ys[i] = xs[i], bit by bit, beside the calls that follow: until `awaitCopies` of the same group, the xs must stay as
// they are and the ys not be read. For values that wait in the host's memory until the backward needs them.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface StartCopiesArgs {
  /** [N, C_i] each */
  readonly xs: readonly Tensor[];
  /** [N, C_i] each, of the dtype of xs[i] */
  readonly ys: readonly Tensor[];
  /** Copies that are awaited together; one group is not begun again before. */
  readonly group: number;
}

const sampleShapes = [
  { n: 1, widths: [1] },
  { n: 3, widths: [7, 2] },
  { n: 17, widths: [129, 64, 5] },
] as const;

export const startCopies: Op<StartCopiesArgs> = {
  name: "startCopies",
  signature: {
    xs: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["C"] } },
    ys: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["C"] } },
  },
  validate({ xs, ys, group }) {
    checkGroup(startCopies.name, group);
    if (ys.length !== xs.length) throw broken(startCopies, "ys.length", `${xs.length}, as xs`, ys.length);
    for (const [i, { dtype }] of ys.entries())
      if (dtype !== xs[i]!.dtype) throw broken(startCopies, `ys[${i}].dtype`, `${xs[i]!.dtype}, as xs[${i}]`, dtype);
  },
  reference({ xs, ys }) {
    for (const [i, y] of ys.entries()) writeMatrix(y, readMatrix(xs[i]!));
  },
  samples: sampleShapes.map(({ n, widths }) => ({
    name: `${n} rows of ${widths.join(", ")}`,
    dtypes: FLOATS,
    make: (m: SampleMaker) => sampleCall(m, n, widths),
  })),
  badSamples: [
    {
      name: "a copy without a place",
      make: (m) => ({ ...sampleCall(m, 2, [3, 5]), ys: [m.output("out", m.dtype, 2, 3)] }),
    },
    { name: "another width", make: (m) => ({ ...sampleCall(m, 2, [3]), ys: [m.output("out", m.dtype, 2, 4)] }) },
    {
      name: "another dtype",
      make: (m) => ({ ...sampleCall(m, 2, [3]), ys: [m.output("out", m.dtype === "f32" ? "bf16" : "f32", 2, 3)] }),
    },
    { name: "half a group", make: (m) => ({ ...sampleCall(m, 2, [3]), group: 0.5 }) },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: 0, bytes: bytesOf(args) }),
};

export function checkGroup(name: string, group: number): void {
  if (!Number.isSafeInteger(group) || group < 0) throw broken({ name }, "group", "a whole number ≥ 0", group);
}

function sampleCall(m: SampleMaker, n: number, widths: readonly number[]): StartCopiesArgs {
  return {
    xs: widths.map((width) => m.normal(m.dtype, n, width)),
    ys: widths.map((width) => m.output("out", m.dtype, n, width)),
    group: 1,
  };
}
