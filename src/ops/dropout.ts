// y = x⊙keep / (1 − p): each element is dropped with probability p (arXiv 1207.0580), kept ones are scaled up.
// The mask is a function of (seed, stream, step, sample, position, column) and of nothing else: element c of row n is
// dropped if word 4·⌈K/4⌉·position + c, row `sample`, of the Philox stream named "STREAM/STEP" is below p·2³². So the split
// into micro-batches, threads, backends and resuming change nothing, and the backward needs no saved mask: the op is its
// own gradient. A dropped element is 0, whatever it was.

import { hashName, randomStream } from "../random/philox.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface DropoutArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** i32 [N, 2]: sample and position of each row, both ≥ 0 */
  readonly rows: Tensor;
  /** [N, K]; may be x */
  readonly y: Tensor;
  /** Probability of dropping an element, 0 ≤ p < 1. */
  readonly p: number;
  readonly seed: number;
  /** Names the place in the model, so that every linear has its own mask. */
  readonly stream: string;
  /** Optimizer step. */
  readonly step: number;
}

/** Words of the mask below this are dropped. */
export const dropThreshold = (p: number): number => Math.round(p * 2 ** 32);

/** The name of the Philox stream of one step, and its hash for kernels. */
export const maskStream = ({ stream, step }: Pick<DropoutArgs, "stream" | "step">): string => `${stream}/${step}`;
export const maskHash = (args: Pick<DropoutArgs, "stream" | "step">): [number, number] => hashName(maskStream(args));

const sampleOf = (n: number, k: number, p: number) => ({
  name: `${n}×${k}, p = ${p}`,
  dtypes: FLOATS,
  make: (m: SampleMaker): DropoutArgs => ({
    x: m.normal(m.dtype, n, k),
    rows: m.integers("i32", n, 2, 0, 1000),
    y: m.output("out", m.dtype, n, k),
    p,
    seed: 2 ** 40 + 7,
    stream: "layers.0.q_proj",
    step: 3,
  }),
});

export const dropout: Op<DropoutArgs> = {
  name: "dropout",
  signature: {
    x: { access: "in", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"] },
    rows: { access: "in", dims: ["N", "*"], dtypes: ["i32"] },
    y: { access: "out", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["x"] },
  },
  gradient: { op: "dropout", args: { x: { gradientOf: "y" }, rows: "rows", y: { gradientOf: "x" } } },
  validate({ rows, p, seed, step }) {
    if (rows.cols !== 2) throw broken(dropout, "rows.cols", "2, sample and position", rows.cols);
    if (!(p >= 0 && p < 1)) throw broken(dropout, "p", "a number from 0 to below 1", p);
    for (const [name, value] of [
      ["seed", seed],
      ["step", step],
    ] as const)
      if (!Number.isSafeInteger(value) || value < 0) throw broken(dropout, name, "a whole number ≥ 0", value);
  },
  reference(args) {
    const { x, rows, y, p, seed } = args;
    const stream = randomStream(seed, maskStream(args));
    const identity = readMatrix(rows);
    const pitch = 4 * Math.ceil(x.cols / 4);
    const scale = 1 / (1 - p);
    writeMatrix(
      y,
      readMatrix(x).map((value, i) => {
        const [n, c] = [Math.floor(i / x.cols), i % x.cols];
        const word = stream.u32(pitch * identity[2 * n + 1]! + c, identity[2 * n]!);
        return word < dropThreshold(p) ? 0 : value * scale;
      }),
    );
  },
  samples: [
    sampleOf(1, 1, 0.5),
    sampleOf(3, 7, 0.25),
    sampleOf(17, 129, 0.1),
    sampleOf(64, 192, 0.9),
    sampleOf(5, 64, 0),
    {
      name: "in place",
      dtypes: FLOATS,
      make(m) {
        const call = sampleOf(5, 67, 0.5).make(m);
        return { ...call, y: call.x };
      },
    },
    {
      name: "NaN and infinity",
      dtypes: FLOATS,
      make: (m) => ({
        ...sampleOf(2, 8, 0.5).make(m),
        x: m.values(
          m.dtype,
          2,
          8,
          Array.from({ length: 16 }, (_, i) => (i % 2 ? Number.NaN : Number.POSITIVE_INFINITY)),
        ),
      }),
    },
  ],
  badSamples: [
    { name: "p = 1", make: (m) => ({ ...sampleOf(2, 3, 0.5).make(m), p: 1 }) },
    { name: "p is NaN", make: (m) => ({ ...sampleOf(2, 3, 0.5).make(m), p: Number.NaN }) },
    { name: "a negative step", make: (m) => ({ ...sampleOf(2, 3, 0.5).make(m), step: -1 }) },
    {
      name: "rows without positions",
      make: (m) => ({ ...sampleOf(2, 3, 0.5).make(m), rows: m.integers("i32", 2, 1, 0, 9) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-15, worst: 1e-14, reason: "one product" },
    f32: { normalised: 2e-7, worst: 1e-6, reason: "the factor and the product are rounded to f32" },
    bf16: {
      normalised: 4e-3,
      worst: 6e-2,
      reason: "one rounding of the output, at most 2⁻⁹ of an element; few are not 0",
    },
  },
  cost: (args) => ({ flops: args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};
