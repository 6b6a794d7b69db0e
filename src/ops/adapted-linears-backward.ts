// With g_i = s·dY_i·B_i[:b]ᵀ (rows of the range) and t_i = s·x·A_i[:b]ᵀ from the forward:
//   dX = Σ_i (dY_i·deq(W_i) + g_i·A_i[:b]);   dA_i[:b] += g_iᵀ·x;   dB_i[:b] += t_iᵀ·dY_i.
// Rows ≥ b of dA and dB are not touched. W is frozen: no gradient. Derivation: docs/math/adapted-linears.md.
// a, b, t, da and db of a linear are all null or all given. Only columns < b of t are read. g may be rounded to the
// compute dtype, as A and B may be where they are f32 masters.

import { readMatrix, sideBySide, writeMatrix } from "../tensor/host.ts";
import { colSlice, rowSlice, type Tensor } from "../tensor/tensor.ts";
import { decodeWeight, type FrozenWeight } from "./frozen-weight.ts";
import { checkGroup, checkTail, checkTogether, groupFlops, largestRank } from "./linear-group.ts";
import {
  BAD_GROUPS,
  BAD_SHAPE,
  GROUP_SHAPES,
  type GroupShape,
  LARGE_BACKWARD,
  sampleGroup,
  sampleSaved,
  TAILED_GROUPS,
  tailColumns,
} from "./linear-group-samples.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";
import { asCompute, times, timesTransposed, transposedTimes } from "./products.ts";
import { checkRanges, type RankRange } from "./rank-range.ts";

export interface AdaptedLinearsBackwardArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** 1–4 frozen weights [M_i, K] that share x */
  readonly weights: readonly FrozenWeight[];
  /** [R, K] */
  readonly a: readonly (Tensor | null)[];
  /** [R, M_i] */
  readonly b: readonly (Tensor | null)[];
  /** [N, R] */
  readonly t: readonly (Tensor | null)[];
  /** [N, M_i] */
  readonly dy: readonly Tensor[];
  /** [N, K]; null where nothing before it learns */
  readonly dx: Tensor | null;
  /** f32 [R, K] */
  readonly da: readonly (Tensor | null)[];
  /** f32 [R, M_i] */
  readonly db: readonly (Tensor | null)[];
  /**
   * [N, *], right behind the dY_i, which lie side by side in each row: room for the g_i, so that one product over all their
   * columns gives dX.
   */
  readonly dyTail?: Tensor | null;
  /** As in the forward. */
  readonly ranges: readonly RankRange[];
}

export const adaptedLinearsBackward: Op<AdaptedLinearsBackwardArgs> = {
  name: "adaptedLinearsBackward",
  signature: {
    x: { access: "in", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"] },
    a: { access: "in", dims: ["R", "K"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    b: { access: "in", dims: ["R", "M"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: ["M"] } },
    t: { access: "in", dims: ["N", "R"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    dy: { access: "in", dims: ["N", "M"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["M"] } },
    dx: { access: "out", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"], optional: true },
    da: { access: "acc", dims: ["R", "K"], dtypes: ["f64", "f32"], optional: true, list: { varying: [] } },
    db: { access: "acc", dims: ["R", "M"], dtypes: ["f64", "f32"], optional: true, list: { varying: ["M"] } },
    dyTail: { access: "spare", dims: ["N", "*"], dtypes: ["f64", "f32", "bf16"], optional: true },
  },
  validate({ x, weights, a, b, t, dy, da, db, dyTail, ranges }) {
    checkGroup(adaptedLinearsBackward, weights, x.cols, { name: "dy", list: dy }, { a, b, t, da, db });
    checkTogether(adaptedLinearsBackward, { a, b, t, da, db });
    checkTail(adaptedLinearsBackward, "dyTail", dy, dyTail ?? null);
    checkRanges(adaptedLinearsBackward, ranges, x.rows, largestRank(a));
  },
  reference({ x, weights, a, b, t, dy, dx, da, db, ranges }) {
    const gradient = new Float64Array(x.rows * x.cols);
    for (const [i, weight] of weights.entries()) {
      if (dx) {
        const base = times(readMatrix(dy[i]!), asCompute(decodeWeight(weight), x.dtype), x.rows, weight.rows, x.cols);
        addTo(gradient, base, 0);
      }
      for (const range of ranges) {
        if (!a[i] || !b[i] || !t[i] || !da[i] || !db[i]) continue;
        const part = { x, dy: dy[i]!, a: a[i], b: b[i], t: t[i], da: da[i], db: db[i] };
        addTo(gradient, adapterBackward(range, part), range.from * x.cols);
      }
    }
    if (dx) writeMatrix(dx, gradient);
  },
  samples: [
    ...GROUP_SHAPES.map((shape) => ({
      name: shape.name,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, shape),
    })),
    { name: "no dx", dtypes: FLOATS, make: (m) => ({ ...sampleCall(m, GROUP_SHAPES[7]!), dx: null }) },
    ...TAILED_GROUPS.map((shape) => ({
      name: `${shape.name}, with a tail`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => withTail(m, sampleCall(m, shape), shape),
    })),
    { name: LARGE_BACKWARD.name, dtypes: ["f32", "bf16"], make: (m) => sampleCall(m, LARGE_BACKWARD) },
    {
      name: `${LARGE_BACKWARD.name}, with a tail`,
      dtypes: ["f32", "bf16"],
      make: (m) => withTail(m, sampleCall(m, LARGE_BACKWARD), LARGE_BACKWARD),
    },
  ],
  badSamples: [
    ...BAD_GROUPS.map(({ name, spoil }) => ({
      name,
      make: (m: SampleMaker) => ({ ...sampleCall(m, BAD_SHAPE), ...spoil(sampleCall(m, BAD_SHAPE), m) }),
    })),
    { name: "dy of another width", make: (m) => ({ ...sampleCall(m, BAD_SHAPE), dy: [m.normal(m.dtype, 6, 5)] }) },
    {
      name: "a tail behind gradients that lie apart",
      make: (m) => {
        const two = sampleCall(m, TAILED_GROUPS[0]!);
        const [last, tail] = sideBySide([two.dy.at(-1)!, m.output("out", m.dtype, two.x.rows, 8)]);
        return { ...two, dy: two.dy.with(-1, last!), dyTail: tail! };
      },
    },
    { name: "db missing", make: (m) => ({ ...sampleCall(m, BAD_SHAPE), db: [null] }) },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-12, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-5, worst: 1e-4, reason: "f32 sums over up to some thousand terms in any order" },
    bf16: { normalised: 1e-2, worst: 5e-2, reason: "g, and dX, rounded to bf16 (2⁻⁹ each)" },
  },
  bf16Inside: true,
  cost: (args) => ({
    flops: groupFlops(args.x, args.weights, args.a, args.ranges, { base: args.dx ? 1 : 0, adapter: 2 }),
    bytes: bytesOf(args),
  }),
};

type Part = { readonly [K in "x" | "dy" | "a" | "b" | "t" | "da" | "db"]: Tensor };

/** Adds to dA[:b] and dB[:b], and returns g·A[:b] [rows, K] for dX, for the rows of one range. */
function adapterBackward({ from, to, rank, scale }: RankRange, part: Part): Float64Array {
  const rows = to - from;
  const { cols: k } = part.x;
  const { cols: m } = part.dy;
  const x = readMatrix(rowSlice(part.x, from, to));
  const dy = readMatrix(rowSlice(part.dy, from, to));
  const t = readMatrix(colSlice(rowSlice(part.t, from, to), 0, rank));
  const a = readMatrix(rowSlice(part.a, 0, rank));
  const b = readMatrix(rowSlice(part.b, 0, rank));
  const g = timesTransposed(dy, b, rows, rank, m).map((value) => scale * value);
  accumulate(rowSlice(part.da, 0, rank), transposedTimes(g, x, rows, rank, k));
  accumulate(rowSlice(part.db, 0, rank), transposedTimes(t, dy, rows, rank, m));
  return times(g, a, rows, rank, k);
}

function accumulate(target: Tensor, values: Float64Array): void {
  const sum = readMatrix(target);
  addTo(sum, values, 0);
  writeMatrix(target, sum);
}

function addTo(target: Float64Array, values: Float64Array, at: number): void {
  for (const [i, value] of values.entries()) target[at + i]! += value;
}

function sampleCall(m: SampleMaker, shape: GroupShape): AdaptedLinearsBackwardArgs {
  const statistics = statisticsDtype(m.dtype);
  const { linears, n, k, r } = shape;
  const sum = (bare: true | undefined, cols: number) => (bare ? null : m.output("acc", statistics, r, cols));
  return {
    ...sampleGroup(m, shape),
    t: linears.map(({ bare }) => (bare ? null : sampleSaved(m, shape))),
    dy: linears.map(({ m: cols }) => m.normal(m.dtype, n, cols)),
    dx: m.output("out", m.dtype, n, k),
    da: linears.map(({ bare }) => sum(bare, k)),
    db: linears.map(({ bare, m: cols }) => sum(bare, cols)),
  };
}

function withTail(m: SampleMaker, call: AdaptedLinearsBackwardArgs, shape: GroupShape): AdaptedLinearsBackwardArgs {
  const room = m.output("out", m.dtype, shape.n, tailColumns(shape, shape.linears.length));
  const placed = sideBySide([...call.dy, room]);
  return { ...call, dy: placed.slice(0, -1), dyTail: placed.at(-1)! };
}
