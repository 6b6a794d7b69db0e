// Samples of a group of linears, for the forward, the backward and dequantize: one list of shapes, so that both directions
// are tested on the same cases.

import type { DType } from "../tensor/dtype.ts";
import { readMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { dynamicMap } from "./code-books.ts";
import { type BaseFormat, type FrozenWeight, QUANT_BLOCK, SCALE_BLOCK } from "./frozen-weight.ts";
import { type SampleMaker, statisticsDtype } from "./op.ts";
import type { RankRange } from "./rank-range.ts";

export type SampleFormat = BaseFormat | "zero" | "nf4 double" | "fp4 double";

export const SAMPLE_FORMATS: readonly SampleFormat[] = ["nf4", "nf4 double", "fp4", "fp4 double", "bf16", "f32"];

export interface GroupShape {
  readonly name: string;
  readonly n: number;
  readonly k: number;
  /** Out-features and format of each weight; an adapter unless it says otherwise. */
  readonly linears: readonly { m: number; format: SampleFormat; bias?: true; bare?: true }[];
  readonly r: number;
  readonly ranges: readonly RankRange[];
  /** Rows of A and B from the largest rank of the ranges on are NaN: nobody may read them. */
  readonly poisoned?: true;
  /** A and B are masters: f32 beside a bf16 x. */
  readonly masters?: true;
}

const all = (n: number, rank: number, scale: number): RankRange[] => [{ from: 0, to: n, rank, scale }];

export const GROUP_SHAPES: readonly GroupShape[] = [
  { name: "one of everything", n: 1, k: 1, linears: [{ m: 1, format: "nf4" }], r: 1, ranges: all(1, 1, 2) },
  ...SAMPLE_FORMATS.map((format): GroupShape => {
    const linears = [{ m: 13, format, bias: true as const }];
    return { name: `${format}, blocks across rows, b < R`, n: 5, k: 97, linears, r: 7, ranges: all(5, 3, 0.5) };
  }),
  {
    name: "q, k, v: three widths, b = R",
    n: 19,
    k: 128,
    linears: [
      { m: 128, format: "nf4 double", bias: true },
      { m: 32, format: "nf4 double" },
      { m: 32, format: "nf4" },
    ],
    r: 16,
    ranges: all(19, 16, 1),
  },
  {
    name: "the same with a smaller b",
    n: 19,
    k: 128,
    linears: [
      { m: 128, format: "nf4 double", bias: true },
      { m: 32, format: "nf4 double" },
      { m: 32, format: "nf4" },
    ],
    r: 16,
    ranges: all(19, 2, 8),
    poisoned: true,
  },
  {
    name: "four weights of four formats, two without an adapter",
    n: 33,
    k: 65,
    linears: [
      { m: 7, format: "fp4 double", bare: true },
      { m: 64, format: "bf16" },
      { m: 31, format: "nf4", bias: true, bare: true },
      { m: 129, format: "f32" },
    ],
    r: 5,
    ranges: all(33, 5, 0.25),
  },
  {
    name: "a rank and scale per range, rows outside",
    n: 23,
    k: 96,
    linears: [
      { m: 48, format: "nf4 double" },
      { m: 40, format: "nf4 double" },
    ],
    r: 8,
    ranges: [
      { from: 1, to: 8, rank: 8, scale: 0.5 },
      { from: 8, to: 9, rank: 1, scale: 4 },
      { from: 11, to: 20, rank: 3, scale: -2 },
      { from: 20, to: 20, rank: 2, scale: 1 },
    ],
  },
  {
    name: "f32 masters of A and B",
    n: 19,
    k: 128,
    linears: [
      { m: 64, format: "nf4 double", bias: true },
      { m: 40, format: "bf16" },
    ],
    r: 16,
    ranges: all(19, 11, 0.5),
    masters: true,
  },
  {
    name: "f32 master of one A and B, two rows",
    n: 2,
    k: 128,
    linears: [{ m: 64, format: "nf4 double" }],
    r: 8,
    ranges: all(2, 5, 0.5),
    masters: true,
  },
  {
    name: "one row, more blocks than a kernel may take at a time",
    n: 1,
    k: 16448,
    linears: [{ m: 6, format: "nf4 double" }],
    r: 2,
    ranges: all(1, 2, 1),
  },
  {
    name: "one row, more groups of scales than a kernel may keep",
    n: 1,
    k: 28736,
    linears: [{ m: 6, format: "nf4 double" }],
    r: 2,
    ranges: all(1, 2, 1),
  },
  {
    name: "seven rows, more blocks than a kernel may take at a time",
    n: 7,
    k: 32832,
    linears: [{ m: 3, format: "nf4 double" }],
    r: 2,
    ranges: all(7, 2, 1),
  },
  {
    name: "seven rows of seven ranks",
    n: 7,
    k: 576,
    linears: [
      { m: 131, format: "nf4 double" },
      { m: 34, format: "nf4" },
    ],
    r: 64,
    ranges: [1, 2, 4, 8, 16, 32, 64].map((rank, row) => ({ from: row, to: row + 1, rank, scale: 1 })),
  },
  {
    name: "rank 0",
    n: 6,
    k: 64,
    linears: [{ m: 66, format: "nf4" }],
    r: 4,
    ranges: all(6, 0, 1),
    poisoned: true,
  },
  {
    name: "no adapter at all",
    n: 3,
    k: 70,
    linears: [{ m: 65, format: "nf4 double", bare: true }],
    r: 1,
    ranges: all(3, 1, 1),
  },
  {
    name: "adapters without a base, beside one with",
    n: 21,
    k: 80,
    linears: [
      { m: 34, format: "zero" },
      { m: 48, format: "nf4 double" },
      { m: 9, format: "zero", bias: true },
    ],
    r: 8,
    ranges: [
      { from: 0, to: 9, rank: 5, scale: 0.5 },
      { from: 9, to: 15, rank: 0, scale: 1 },
      { from: 15, to: 21, rank: 8, scale: 2 },
    ],
  },
  {
    name: "an adapter without a base, two rows",
    n: 2,
    k: 130,
    linears: [{ m: 66, format: "zero" }],
    r: 4,
    ranges: all(2, 4, 0.5),
  },
  {
    name: "eight rows of several ranks",
    n: 8,
    k: 192,
    linears: [
      { m: 48, format: "nf4 double", bias: true },
      { m: 33, format: "fp4 double" },
      { m: 17, format: "nf4", bare: true },
      { m: 20, format: "bf16" },
    ],
    r: 8,
    ranges: [
      { from: 0, to: 3, rank: 8, scale: 0.5 },
      { from: 3, to: 4, rank: 0, scale: 1 },
      { from: 5, to: 8, rank: 3, scale: 2 },
    ],
  },
  {
    name: "one row, deep",
    n: 1,
    k: 2816,
    linears: [{ m: 130, format: "nf4 double" }],
    r: 64,
    ranges: all(1, 37, 0.4),
  },
];

/** Groups whose x and dY lie beside spare columns too: several weights, a rank below R, and one weight alone. */
export const TAILED_GROUPS: readonly GroupShape[] = [
  "q, k, v: three widths, b = R",
  "the same with a smaller b",
  "a rank and scale per range, rows outside",
  "f32 masters of A and B",
  "rank 0",
  "adapters without a base, beside one with",
  "one row, deep",
].map((name) => GROUP_SHAPES.find((shape) => shape.name === name)!);

/** Spare columns of a sample: R for each of `count` adapters, in whole tiles of a tensor core. */
export const tailColumns = ({ r }: GroupShape, count: number): number => count * 16 * Math.ceil(r / 16);

/** Above 50 MFLOP: the reference is computed on some rows only. */
export const LARGE_GROUP: GroupShape = {
  name: "large",
  n: 130,
  k: 704,
  linears: [
    { m: 323, format: "nf4 double" },
    { m: 130, format: "nf4 double", bias: true },
  ],
  r: 32,
  ranges: all(130, 24, 0.7),
};

/** Large for the backward, whose sums over rows cannot be taken apart by rows. */
export const LARGE_BACKWARD: GroupShape = { ...LARGE_GROUP, n: 65, k: 320, ranges: all(65, 24, 0.7) };

export function sampleWeight(m: SampleMaker, format: SampleFormat, rows: number, cols: number): FrozenWeight {
  if (format === "zero") return { format, rows, cols };
  if (format === "bf16" || format === "f32") return { format, rows, cols, values: m.normal(format, rows, cols, 0.1) };
  const blocks = Math.ceil((rows * cols) / QUANT_BLOCK);
  const codes = m.integers("u8", 1, Math.ceil((rows * cols) / 2), 0, 256);
  const base = format.startsWith("nf4") ? "nf4" : "fp4";
  if (!format.endsWith("double"))
    return { format: base, rows, cols, codes, scales: { kind: "plain", absmax: positive(m, blocks, 0.1) } };
  const absmax2 = positive(m, Math.ceil(blocks / SCALE_BLOCK), 0.05);
  const map = m.values("f32", 1, 256, dynamicMap());
  const scaleCodes = m.integers("u8", 1, blocks, 0, 256);
  return { format: base, rows, cols, codes, scales: { kind: "double", codes: scaleCodes, absmax2, map, offset: 0.15 } };
}

/** The inputs that forward and backward share. */
export function sampleGroup(m: SampleMaker, shape: GroupShape) {
  const { n, k, r, linears, ranges } = shape;
  const read = shape.poisoned ? Math.max(...ranges.map((range) => range.rank)) : r;
  const dtype = shape.masters ? statisticsDtype(m.dtype) : m.dtype;
  const adapter = (cols: number) => withNaN(m, m.normal(dtype, r, cols, 0.2), (row) => row >= read);
  return {
    x: m.normal(m.dtype, n, k),
    weights: linears.map(({ m: rows, format }) => sampleWeight(m, format, rows, k)),
    a: linears.map(({ bare }) => (bare ? null : adapter(k))),
    b: linears.map(({ bare, m: cols }) => (bare ? null : adapter(cols))),
    ranges,
  };
}

/** A saved t: NaN wherever the forward writes nothing. */
export function sampleSaved(m: SampleMaker, { n, r, ranges }: GroupShape): Tensor {
  const rankOf = (row: number) => ranges.find(({ from, to }) => from <= row && row < to)?.rank ?? 0;
  return withNaN(m, m.normal(m.dtype, n, r), (row, col) => col >= rankOf(row));
}

function withNaN(m: SampleMaker, tensor: Tensor, poisoned: (row: number, col: number) => boolean): Tensor {
  const { dtype, rows, cols } = tensor;
  const values = readMatrix(tensor).map((v, i) => (poisoned(Math.floor(i / cols), i % cols) ? Number.NaN : v));
  return m.values(dtype, rows, cols, values);
}

function positive(m: SampleMaker, count: number, size: number): Tensor {
  const dtype: DType = "f32";
  const values = readMatrix(m.normal(dtype, 1, count)).map((value) => size * (0.5 + Math.abs(value)));
  return m.values(dtype, 1, count, values);
}

export const BAD_SHAPE: GroupShape = {
  name: "to be spoilt",
  n: 6,
  k: 64,
  linears: [{ m: 4, format: "nf4" }],
  r: 3,
  ranges: all(6, 2, 1),
};

interface Group {
  readonly weights: readonly FrozenWeight[];
  readonly a: readonly (Tensor | null)[];
  readonly ranges: readonly RankRange[];
}

/** Ways to break a call on BAD_SHAPE, in either direction. */
export const BAD_GROUPS: readonly { name: string; spoil(good: Group, m: SampleMaker): Partial<Group> }[] = [
  { name: "no weight", spoil: () => ({ weights: [] }) },
  { name: "five weights", spoil: ({ weights }) => ({ weights: Array.from({ length: 5 }, () => weights[0]!) }) },
  { name: "an adapter too many", spoil: ({ a }) => ({ a: [...a, null] }) },
  { name: "B without A", spoil: () => ({ a: [null] }) },
  { name: "a weight of another depth", spoil: (_, m) => ({ weights: [sampleWeight(m, "nf4", 4, 65)] }) },
  { name: "a weight of another height", spoil: (_, m) => ({ weights: [sampleWeight(m, "bf16", 5, 64)] }) },
  {
    name: "codes that are too short",
    spoil: (_, m) => ({ weights: [{ ...sampleWeight(m, "fp4", 4, 63), cols: 64 }] }),
  },
  { name: "a rank above R", spoil: () => ({ ranges: all(6, 4, 1) }) },
  { name: "a negative rank", spoil: () => ({ ranges: all(6, -1, 1) }) },
  { name: "half a rank", spoil: () => ({ ranges: all(6, 1.5, 1) }) },
  { name: "an infinite scale", spoil: () => ({ ranges: all(6, 1, Number.POSITIVE_INFINITY) }) },
  { name: "rows past the end", spoil: () => ({ ranges: all(7, 1, 1) }) },
  { name: "ranges that overlap", spoil: () => ({ ranges: [...all(4, 1, 1), { from: 3, to: 6, rank: 1, scale: 1 }] }) },
  { name: "ranges out of order", spoil: () => ({ ranges: [{ from: 3, to: 6, rank: 1, scale: 1 }, ...all(3, 1, 1)] }) },
];
