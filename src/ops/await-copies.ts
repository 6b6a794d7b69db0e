// The end of what `startCopies` began: calls from here on may read its ys and write over its xs. Computes nothing.

import type { Tensor } from "../tensor/tensor.ts";
import { FLOATS, type Op, type SampleMaker } from "./op.ts";
import { checkGroup } from "./start-copies.ts";

export interface AwaitCopiesArgs {
  /** [N, C_i] each: what was copied from or to, and so had to be left alone until here. */
  readonly held: readonly Tensor[];
  /** As the copies were begun with. Nothing happens where none of them is on its way. */
  readonly group: number;
}

const sampleShapes = [
  { n: 1, widths: [1] },
  { n: 17, widths: [129, 7] },
] as const;

export const awaitCopies: Op<AwaitCopiesArgs> = {
  name: "awaitCopies",
  signature: {
    held: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["C"] } },
  },
  validate: ({ group }) => checkGroup(awaitCopies.name, group),
  reference() {},
  samples: sampleShapes.map(({ n, widths }) => ({
    name: `${n} rows of ${widths.join(", ")}`,
    dtypes: FLOATS,
    make: (m: SampleMaker) => sampleCall(m, n, widths),
  })),
  badSamples: [
    { name: "rows that differ", make: (m) => ({ held: [m.normal(m.dtype, 2, 3), m.normal(m.dtype, 3, 3)], group: 1 }) },
    { name: "a group below 0", make: (m) => ({ ...sampleCall(m, 2, [3]), group: -1 }) },
  ],
  tolerance: "exact",
  cost: ({ held }) => ({ flops: 0, bytes: held.length }),
};

function sampleCall(m: SampleMaker, n: number, widths: readonly number[]): AwaitCopiesArgs {
  return { held: widths.map((width) => m.normal(m.dtype, n, width)), group: 1 };
}
