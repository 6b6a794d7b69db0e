// Attention of new queries over a key/value cache: query row i sees cache rows slots[i] .. slots[i] + lengths[i] − 1, with a
// window the last `window` of them. Scores as in attention.ts.
// Serves prefill (one row per prompt token) and decode alike; the new keys and values were appended before.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  type AttentionAttributes,
  attend,
  checkAttention,
  firstSeen,
  type Heads,
  headsOf,
  range,
} from "./attention-heads.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface AttentionCachedArgs extends AttentionAttributes {
  /** [Q, H·D] */
  readonly q: Tensor;
  /** [T, G·D] */
  readonly kCache: Tensor;
  /** [T, G·D] */
  readonly vCache: Tensor;
  /** i32 [Q, 1]: first cache row of the sequence */
  readonly slots: Tensor;
  /** i32 [Q, 1]: visible keys, ≥ 1 */
  readonly lengths: Tensor;
  /** [Q, H·D] */
  readonly o: Tensor;
}

export const attentionCached: Op<AttentionCachedArgs> = {
  name: "attentionCached",
  signature: {
    q: { access: "in", dims: ["Q", "HD"], dtypes: ["f64", "f32", "bf16"] },
    kCache: { access: "in", dims: ["T", "GD"], dtypes: ["f64", "f32", "bf16"] },
    vCache: { access: "in", dims: ["T", "GD"], dtypes: ["f64", "f32", "bf16"] },
    slots: { access: "in", dims: ["Q", "1"], dtypes: ["i32"] },
    lengths: { access: "in", dims: ["Q", "1"], dtypes: ["i32"] },
    o: { access: "out", dims: ["Q", "HD"], dtypes: ["f64", "f32", "bf16"] },
  },
  validate: ({ q, kCache, ...attributes }) => checkAttention(attentionCached, q.cols, kCache.cols, attributes),
  reference({ q, kCache, vCache, slots, lengths, o, ...attributes }) {
    const { headDim } = attributes;
    const heads = headsOf(q, headDim);
    const keys = headsOf(kCache, headDim);
    const values = headsOf(vCache, headDim);
    const first = readMatrix(slots);
    const count = readMatrix(lengths);
    const out = new Float64Array(o.rows * o.cols);
    for (let n = 0; n < q.rows; n++)
      for (let h = 0; h < heads.count; h++) {
        const group = Math.floor(h / (heads.count / keys.count));
        const end = first[n]! + count[n]!;
        const rows = range(firstSeen(first[n]!, end - 1, attributes), end);
        const seen = (cache: Heads) => rows.map((row) => cache.at(row, group));
        out.set(attend(heads.at(n, h), seen(keys), seen(values), attributes).o, n * o.cols + h * headDim);
      }
    writeMatrix(o, out);
  },
  samples: [
    { name: "one of everything", dtypes: FLOATS, make: (m) => sampleCall(m, 1, 1, 1, 1, [0], [1]) },
    {
      name: "two sequences, prefill and decode",
      dtypes: FLOATS,
      make: (m) => sampleCall(m, 50, 6, 2, 16, [7, 7, 7, 31], [3, 4, 5, 19]),
    },
    { name: "prime sizes", dtypes: FLOATS, make: (m) => sampleCall(m, 37, 3, 3, 7, [0, 1, 30], [37, 1, 7]) },
    { name: "long", dtypes: FLOATS, make: (m) => sampleCall(m, 300, 8, 2, 64, [0, 100], [300, 131]) },
    {
      name: "a window, prefill and decode",
      dtypes: FLOATS,
      make: (m) => ({
        ...sampleCall(m, 211, 4, 2, 16, [...Array(110).fill(3), 113, 150], [...range(1, 111), 37, 61]),
        window: 19,
      }),
    },
    {
      name: "a prompt of several tiles, and another sequence",
      dtypes: FLOATS,
      make: (m) => sampleCall(m, 250, 4, 2, 80, [...Array(150).fill(5), 200], [...range(1, 151), 40]),
    },
    {
      name: "decoding of many sequences, more heads of one group than are taken together",
      dtypes: FLOATS,
      make: (m) =>
        sampleCall(
          m,
          331,
          106,
          1,
          8,
          range(0, 13).map((i) => 3 * i),
          range(0, 13).map((i) => 24 * i + 1),
        ),
    },
    {
      name: "decoding of more sequences than have parts",
      dtypes: FLOATS,
      make: (m) =>
        sampleCall(
          m,
          203,
          3,
          3,
          40,
          range(0, 67).map((i) => i % 5),
          range(0, 67).map((i) => 2 * i + 66),
        ),
    },
    {
      name: "soft-capped scores and a window that nothing exceeds",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, 71, 2, 1, 8, [0, 0, 0, 68], [65, 66, 67, 3]), window: 67, softCap: 1.5 }),
    },
  ],
  badSamples: [
    {
      name: "a head dim that does not divide",
      make: (m) => ({ ...sampleCall(m, 5, 2, 1, 4, [0], [2]), headDim: 3 }),
    },
    { name: "a window of 0", make: (m) => ({ ...sampleCall(m, 5, 2, 1, 4, [0], [2]), window: 0 }) },
    {
      name: "an endless soft cap",
      make: (m) => ({ ...sampleCall(m, 5, 2, 1, 4, [0], [2]), softCap: Number.POSITIVE_INFINITY }),
    },
    {
      name: "more slots than queries",
      make: (m) => ({ ...sampleCall(m, 5, 2, 1, 4, [0], [2]), slots: m.values("i32", 2, 1, [0, 0]) }),
    },
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
  // The cache's rows and the window bound what is read; lengths are not known here.
  cost: (args) => ({
    flops: 4 * args.q.cols * args.q.rows * Math.min(args.kCache.rows, args.window ?? args.kCache.rows),
    bytes: bytesOf(args),
  }),
};

function sampleCall(
  m: SampleMaker,
  cacheRows: number,
  heads: number,
  groups: number,
  headDim: number,
  slots: number[],
  lengths: number[],
): AttentionCachedArgs {
  return {
    q: m.normal(m.dtype, slots.length, heads * headDim),
    kCache: m.normal(m.dtype, cacheRows, groups * headDim),
    vCache: m.normal(m.dtype, cacheRows, groups * headDim),
    slots: m.values("i32", slots.length, 1, slots),
    lengths: m.values("i32", lengths.length, 1, lengths),
    o: m.output("out", m.dtype, slots.length, heads * headDim),
    headDim,
    scale: 1 / Math.sqrt(headDim),
    window: null,
    softCap: null,
  };
}
