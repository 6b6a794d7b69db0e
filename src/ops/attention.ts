// Causal softmax attention within each segment; query head h reads key/value head h div (H/G).
//   o_n = Σ_j softmax(z_n)_j v_j;   lse_n = log Σ_j exp(z_nj), saved for backward;   j: the keys that n sees,
//   n − window < j ≤ n in the same segment (j ≤ n without a window), as transformers' sliding_window counts them;
//   z_nj = scale·q_n·k_j, or softCap·tanh(scale·q_n·k_j/softCap).
// Tail padding rows: o = 0, lse = 0. No query sees another segment, to the bit. A kernel skips keys outside the window.

import { writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  type AttentionAttributes,
  attend,
  checkAttention,
  firstSeen,
  type Heads,
  headsOf,
  range,
  segmentsOf,
  visiblePairs,
} from "./attention-heads.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface AttentionArgs extends AttentionAttributes {
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
  readonly window?: number;
  readonly softCap?: number;
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
  { name: "a window of two keys", n: 7, heads: 2, groups: 1, headDim: 5, starts: [0, 3, 7], window: 2 },
  {
    name: "a window shorter than a tile, segments, padding",
    n: 211,
    heads: 4,
    groups: 2,
    headDim: 24,
    starts: [0, 100, 101, 203],
    window: 13,
  },
  { name: "a window across tiles", n: 331, heads: 2, groups: 1, headDim: 32, starts: [0, 331], window: 101 },
  { name: "a window wider than a segment", n: 23, heads: 1, groups: 1, headDim: 8, starts: [0, 9, 23], window: 11 },
  { name: "head dim 80, three heads to a group", n: 201, heads: 3, groups: 1, headDim: 80, starts: [0, 60, 190] },
  { name: "head dim 96", n: 139, heads: 2, groups: 2, headDim: 96, starts: [0, 139], window: 77 },
  { name: "head dim 128, soft-capped", n: 197, heads: 2, groups: 1, headDim: 128, starts: [0, 61, 197], softCap: 3 },
  { name: "head dim 256", n: 139, heads: 2, groups: 1, headDim: 256, starts: [0, 130, 138] },
  { name: "soft-capped scores", n: 67, heads: 4, groups: 2, headDim: 16, starts: [0, 29, 67], spread: 3, softCap: 2 },
  {
    name: "soft cap far below huge scores, and a window",
    n: 131,
    heads: 2,
    groups: 2,
    headDim: 12,
    starts: [0, 131],
    spread: 60,
    window: 37,
    softCap: 50,
  },
];

/** Forward only: the gradients of q and k are 0, which leaves a relative error nothing to relate to. */
const OWN_KEY_ONLY: AttentionShape = {
  name: "a window of one key",
  n: 7,
  heads: 2,
  groups: 1,
  headDim: 5,
  starts: [0, 3, 7],
  window: 1,
};

export function sampleAttention(m: SampleMaker, shape: AttentionShape): AttentionArgs {
  const { n, heads, groups, headDim, starts, spread = 1, window = null, softCap = null } = shape;
  return {
    q: m.normal(m.dtype, n, heads * headDim, spread),
    k: m.normal(m.dtype, n, groups * headDim),
    v: m.normal(m.dtype, n, groups * headDim),
    starts: m.values("i32", starts.length, 1, starts),
    o: m.output("out", m.dtype, n, heads * headDim),
    lse: m.output("out", statisticsDtype(m.dtype), n, heads),
    headDim,
    scale: 1 / Math.sqrt(headDim),
    window,
    softCap,
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
  validate({ q, k, lse, ...attributes }) {
    checkAttention(attention, q.cols, k.cols, attributes);
    const heads = q.cols / attributes.headDim;
    if (lse.cols !== heads) throw broken(attention, "lse.cols", `${heads} query heads`, lse.cols);
  },
  reference({ q, k, v, starts, o, lse, ...attributes }) {
    const { headDim } = attributes;
    const heads = headsOf(q, headDim);
    const keys = headsOf(k, headDim);
    const values = headsOf(v, headDim);
    const group = heads.count / keys.count;
    const out = new Float64Array(o.rows * o.cols);
    const logSums = new Float64Array(lse.rows * lse.cols);
    for (const { from, to } of segmentsOf(starts))
      for (let n = from; n < to; n++)
        for (let h = 0; h < heads.count; h++) {
          const rows = range(firstSeen(from, n, attributes), n + 1);
          const seen = (matrix: Heads) => rows.map((j) => matrix.at(j, Math.floor(h / group)));
          const head = attend(heads.at(n, h), seen(keys), seen(values), attributes);
          out.set(head.o, n * o.cols + h * headDim);
          logSums[n * heads.count + h] = head.lse;
        }
    writeMatrix(o, out);
    writeMatrix(lse, logSums);
  },
  samples: [...ATTENTION_SHAPES, OWN_KEY_ONLY].map((shape) => ({
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
    { name: "a window of 0", make: (m) => ({ ...sampleAttention(m, ATTENTION_SHAPES[2]!), window: 0 }) },
    { name: "half a window", make: (m) => ({ ...sampleAttention(m, ATTENTION_SHAPES[2]!), window: 2.5 }) },
    { name: "a soft cap of 0", make: (m) => ({ ...sampleAttention(m, ATTENTION_SHAPES[2]!), softCap: 0 }) },
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
  // Segments are not known here, so one is assumed.
  cost: (args) => ({ flops: 4 * visiblePairs(args.q.rows, args) * args.q.cols, bytes: bytesOf(args) }),
};
