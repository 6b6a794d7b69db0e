// Causal softmax attention within each segment; query head h reads key/value head h div (H/G).
//   o_n = Σ_{j ≤ n, same segment} softmax(scale·q_n·k_j) v_j;   lse_n = log Σ_j exp(scale·q_n·k_j), saved for backward.
// Tail padding rows: o = 0, lse = 0. No query sees another segment, to the bit.

import { writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { attend, checkHeads, type Heads, headsOf, range, segmentsOf } from "./attention-heads.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface AttentionArgs {
  /** [N, H·D] */
  readonly q: Tensor;
  /** [N, G·D] */
  readonly k: Tensor;
  /** [N, G·D] */
  readonly v: Tensor;
  /** i32 [S+1, 1]: first row of each segment, then the end; rows from starts[S] on are tail padding */
  readonly starts: Tensor;
  /** [N, H·D] */
  readonly o: Tensor;
  /** f32 [N, H] */
  readonly lse: Tensor;
  /** D */
  readonly headDim: number;
  /** Factor on q·k, usually 1/√D. */
  readonly scale: number;
}

export interface AttentionShape {
  readonly name: string;
  readonly n: number;
  readonly heads: number;
  readonly groups: number;
  readonly headDim: number;
  readonly starts: readonly number[];
  /** Standard deviation of q: large ones make scores that overflow exp. */
  readonly spread?: number;
}

export const ATTENTION_SHAPES: readonly AttentionShape[] = [
  { name: "one of everything", n: 1, heads: 1, groups: 1, headDim: 1, starts: [0, 1] },
  { name: "prime sizes", n: 31, heads: 3, groups: 3, headDim: 7, starts: [0, 31] },
  {
    name: "segments, two of one row, a tail of padding",
    n: 19,
    heads: 6,
    groups: 2,
    headDim: 16,
    starts: [0, 5, 6, 13, 14],
  },
  { name: "huge scores", n: 23, heads: 2, groups: 1, headDim: 12, starts: [0, 11, 23], spread: 60 },
  { name: "one key/value head, long", n: 130, heads: 4, groups: 1, headDim: 64, starts: [0, 70, 130] },
];

export function sampleAttention(m: SampleMaker, shape: AttentionShape): AttentionArgs {
  const { n, heads, groups, headDim, starts, spread = 1 } = shape;
  return {
    q: m.normal(m.dtype, n, heads * headDim, spread),
    k: m.normal(m.dtype, n, groups * headDim),
    v: m.normal(m.dtype, n, groups * headDim),
    starts: m.values("i32", starts.length, 1, starts),
    o: m.output("out", m.dtype, n, heads * headDim),
    lse: m.output("out", statisticsDtype(m.dtype), n, heads),
    headDim,
    scale: 1 / Math.sqrt(headDim),
  };
}

export const attention: Op<AttentionArgs> = {
  name: "attention",
  signature: {
    q: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    k: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    v: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    starts: { access: "in", dims: ["S+1", "1"], dtypes: ["i32"] },
    o: { access: "out", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    lse: { access: "out", dims: ["N", "H"], dtypes: ["f64", "f32"] },
  },
  gradient: {
    op: "attentionBackward",
    args: {
      q: "q",
      k: "k",
      v: "v",
      starts: "starts",
      o: "o",
      lse: "lse",
      dO: { gradientOf: "o" },
      dq: { gradientOf: "q" },
      dk: { gradientOf: "k" },
      dv: { gradientOf: "v" },
    },
  },
  validate({ q, k, lse, headDim, scale }) {
    checkHeads(attention, q.cols, k.cols, headDim, scale);
    if (lse.cols !== q.cols / headDim) throw broken(attention, "lse.cols", `${q.cols / headDim} query heads`, lse.cols);
  },
  reference({ q, k, v, starts, o, lse, headDim, scale }) {
    const heads = headsOf(q, headDim);
    const keys = headsOf(k, headDim);
    const values = headsOf(v, headDim);
    const group = heads.count / keys.count;
    const out = new Float64Array(o.rows * o.cols);
    const logSums = new Float64Array(lse.rows * lse.cols);
    for (const { from, to } of segmentsOf(starts))
      for (let n = from; n < to; n++)
        for (let h = 0; h < heads.count; h++) {
          const seen = (matrix: Heads) => range(from, n + 1).map((j) => matrix.at(j, Math.floor(h / group)));
          const head = attend(heads.at(n, h), seen(keys), seen(values), scale);
          out.set(head.o, n * o.cols + h * headDim);
          logSums[n * heads.count + h] = head.lse;
        }
    writeMatrix(o, out);
    writeMatrix(lse, logSums);
  },
  samples: ATTENTION_SHAPES.map((shape) => ({
    name: shape.name,
    dtypes: FLOATS,
    make: (m: SampleMaker) => sampleAttention(m, shape),
  })),
  badSamples: [
    {
      name: "a head dim that does not divide",
      make: (m) => ({ ...sampleAttention(m, ATTENTION_SHAPES[2]!), headDim: 5 }),
    },
    { name: "head dim 0", make: (m) => ({ ...sampleAttention(m, ATTENTION_SHAPES[2]!), headDim: 0 }) },
    {
      name: "groups that do not divide the heads",
      make(m) {
        const [k, v] = [m.normal(m.dtype, 19, 64), m.normal(m.dtype, 19, 64)];
        return { ...sampleAttention(m, ATTENTION_SHAPES[2]!), k, v };
      },
    },
    {
      name: "lse of another width",
      make: (m) => ({ ...sampleAttention(m, ATTENTION_SHAPES[2]!), lse: m.output("out", "f32", 19, 2) }),
    },
    { name: "scale NaN", make: (m) => ({ ...sampleAttention(m, ATTENTION_SHAPES[2]!), scale: Number.NaN }) },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-12, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-5, worst: 1e-4, reason: "f32 sums over up to some thousand terms in any order" },
    bf16: {
      normalised: 1e-2,
      worst: 5e-2,
      reason: "outputs, and factors on the way to them, rounded to bf16 (2⁻⁹ each)",
    },
  },
  // Half of the square: each row sees on average half of its segment; segments are not known here, so one is assumed.
  cost: (args) => ({ flops: 2 * args.q.rows * args.q.rows * args.q.cols, bytes: bytesOf(args) }),
};
