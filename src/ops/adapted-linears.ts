// The op this project exists for: 1–4 frozen linears that share x, each with the first b rows of its adapter.
//   t_i = s·x·A_i[:b]ᵀ;   y_i = x·deq(W_i)ᵀ (+ bias_i) + t_i·B_i[:b]
// A is stored [R, K] and B as Bᵀ [R, M]: rank b is the first b rows of both (arXiv 2210.07558 eq. 5–7 with s = s(b)).
// b and s may differ between row ranges (a rank per segment); b = 0 is the base alone. Columns ≥ b of t are not written,
// nor are its rows outside all ranges; rows outside all ranges get the base alone. a, b and t of a linear are all null or
// all given. W is decoded in f32 and rounded to the compute dtype; so may A and B be where they are f32 masters beside a bf16
// x, and t before it meets B.

import type { DType } from "../tensor/dtype.ts";
import { readMatrix, sideBySide, writeMatrix } from "../tensor/host.ts";
import { colSlice, rowSlice, type Tensor } from "../tensor/tensor.ts";
import { decodeWeight, type FrozenWeight } from "./frozen-weight.ts";
import { checkGroup, checkTail, checkTogether, groupFlops, largestRank } from "./linear-group.ts";
import {
  BAD_GROUPS,
  BAD_SHAPE,
  GROUP_SHAPES,
  type GroupShape,
  LARGE_GROUP,
  sampleGroup,
  TAILED_GROUPS,
  tailColumns,
} from "./linear-group-samples.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";
import { asCompute, times, timesTransposed } from "./products.ts";
import { checkRanges, type RankRange } from "./rank-range.ts";

export interface AdaptedLinearsArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** 1–4 frozen weights [M_i, K] that share x */
  readonly weights: readonly FrozenWeight[];
  /** [1, M_i] or null */
  readonly biases: readonly (Tensor | null)[];
  /** [R, K] or null: this linear has no adapter */
  readonly a: readonly (Tensor | null)[];
  /** [R, M_i] */
  readonly b: readonly (Tensor | null)[];
  /** [N, R], saved for backward */
  readonly t: readonly (Tensor | null)[];
  /** [N, M_i] */
  readonly y: readonly Tensor[];
  /** [N, *], right behind x in each row: room for t, so that one product over K + b columns gives base and adapter. */
  readonly xTail?: Tensor | null;
  /** Disjoint row ranges with their rank and scale. */
  readonly ranges: readonly RankRange[];
}

export const adaptedLinears: Op<AdaptedLinearsArgs> = {
  name: "adaptedLinears",
  signature: {
    x: { access: "in", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"] },
    biases: {
      access: "in",
      dims: ["1", "M"],
      dtypes: ["f64", "f32", "bf16"],
      optional: true,
      list: { varying: ["M"] },
    },
    a: { access: "in", dims: ["R", "K"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    b: { access: "in", dims: ["R", "M"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: ["M"] } },
    t: { access: "out", dims: ["N", "R"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    y: { access: "out", dims: ["N", "M"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["M"] } },
    xTail: { access: "spare", dims: ["N", "*"], dtypes: ["f64", "f32", "bf16"], optional: true },
  },
  gradient: {
    op: "adaptedLinearsBackward",
    args: {
      x: "x",
      weights: "weights",
      a: "a",
      b: "b",
      t: "t",
      dy: { gradientOf: "y" },
      dx: { gradientOf: "x" },
      da: { gradientOf: "a" },
      db: { gradientOf: "b" },
    },
  },
  validate({ x, weights, biases, a, b, t, y, xTail, ranges }) {
    checkGroup(adaptedLinears, weights, x.cols, { name: "y", list: y }, { biases, a, b, t });
    checkTogether(adaptedLinears, { a, b, t });
    checkTail(adaptedLinears, "xTail", [x], xTail ?? null);
    checkRanges(adaptedLinears, ranges, x.rows, largestRank(a));
  },
  reference({ x, weights, biases, a, b, t, y, ranges }) {
    for (const [i, weight] of weights.entries()) {
      const out = baseLinear(x, weight, biases[i]!, x.dtype);
      for (const range of ranges) {
        if (!a[i] || !b[i] || !t[i]) continue;
        const added = adapterOf(range, x, a[i], b[i], t[i]);
        for (const [j, value] of added.entries()) out[range.from * weight.rows + j]! += value;
      }
      writeMatrix(y[i]!, out);
    }
  },
  samples: [
    ...GROUP_SHAPES.map((shape) => ({
      name: shape.name,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, shape),
    })),
    ...TAILED_GROUPS.map((shape) => ({
      name: `${shape.name}, with a tail`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => withTail(m, sampleCall(m, shape), shape),
    })),
    { name: LARGE_GROUP.name, dtypes: ["f32", "bf16"], make: (m) => sampleCall(m, LARGE_GROUP) },
    {
      name: `${LARGE_GROUP.name}, with a tail`,
      dtypes: ["f32", "bf16"],
      make: (m) => withTail(m, sampleCall(m, LARGE_GROUP), LARGE_GROUP),
    },
  ],
  badSamples: [
    ...BAD_GROUPS.map(({ name, spoil }) => ({
      name,
      make: (m: SampleMaker) => ({ ...sampleCall(m, BAD_SHAPE), ...spoil(sampleCall(m, BAD_SHAPE), m) }),
    })),
    { name: "y of another width", make: (m) => ({ ...sampleCall(m, BAD_SHAPE), y: [m.output("out", m.dtype, 6, 5)] }) },
    {
      name: "a tail elsewhere",
      make: (m) => ({ ...sampleCall(m, BAD_SHAPE), xTail: m.output("out", m.dtype, 6, 8) }),
    },
    { name: "a bias too few", make: (m) => ({ ...sampleCall(m, BAD_SHAPE), biases: [] }) },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-12, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-5, worst: 1e-4, reason: "f32 sums over up to some thousand terms in any order" },
    bf16: { normalised: 1e-2, worst: 5e-2, reason: "t, and the outputs, rounded to bf16 (2⁻⁹ each)" },
  },
  cost: (args) => ({
    flops: groupFlops(args.x, args.weights, args.a, args.ranges, { base: 1, adapter: 1 }),
    bytes: bytesOf(args),
  }),
  rowsOf: (args, from, to) => ({
    ...args,
    x: rowSlice(args.x, from, to),
    t: args.t.map((t) => t && rowSlice(t, from, to)),
    y: args.y.map((y) => rowSlice(y, from, to)),
    xTail: args.xTail ? rowSlice(args.xTail, from, to) : null,
    ranges: args.ranges.flatMap((range) => {
      const clipped = { ...range, from: Math.max(range.from, from) - from, to: Math.min(range.to, to) - from };
      return clipped.from < clipped.to ? [clipped] : [];
    }),
  }),
};

/** x·deq(W)ᵀ + bias, [N, M] */
function baseLinear(x: Tensor, weight: FrozenWeight, bias: Tensor | null, compute: DType): Float64Array {
  const out = timesTransposed(readMatrix(x), asCompute(decodeWeight(weight), compute), x.rows, weight.rows, x.cols);
  if (!bias) return out;
  const shift = readMatrix(bias);
  return out.map((value, j) => value + shift[j % weight.rows]!);
}

/** t·B[:b] for the rows of one range, [rows, M]; t itself goes to its output. */
function adapterOf({ from, to, rank, scale }: RankRange, x: Tensor, a: Tensor, b: Tensor, t: Tensor): Float64Array {
  const rows = to - from;
  const input = readMatrix(rowSlice(x, from, to));
  const narrow = timesTransposed(input, readMatrix(rowSlice(a, 0, rank)), rows, rank, x.cols);
  const scaled = narrow.map((value) => scale * value);
  writeMatrix(colSlice(rowSlice(t, from, to), 0, rank), scaled);
  return times(scaled, readMatrix(rowSlice(b, 0, rank)), rows, rank, b.cols);
}

function sampleCall(m: SampleMaker, shape: GroupShape): AdaptedLinearsArgs {
  return {
    ...sampleGroup(m, shape),
    biases: shape.linears.map(({ m: rows, bias }) => (bias ? m.normal(m.dtype, 1, rows) : null)),
    t: shape.linears.map(({ bare }) => (bare ? null : m.output("out", m.dtype, shape.n, shape.r))),
    y: shape.linears.map(({ m: rows }) => m.output("out", m.dtype, shape.n, rows)),
  };
}

function withTail(m: SampleMaker, call: AdaptedLinearsArgs, shape: GroupShape): AdaptedLinearsArgs {
  const [x, xTail] = sideBySide([call.x, m.output("out", m.dtype, shape.n, tailColumns(shape, 1))]);
  return { ...call, x: x!, xTail: xTail! };
}
