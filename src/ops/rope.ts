// Rotary embedding (arXiv 2104.09864), halves layout: for i < D/2 in each head, D the columns that are rotated,
//   y_i = x_i·cos_i − x_{i+D/2}·sin_i,  y_{i+D/2} = x_{i+D/2}·cos_i + x_i·sin_i.
// Columns D… of a head pass through (GPT-NeoX rotates a quarter of a head).
// direction "backward" rotates by the opposite angle: a rotation's transpose is its inverse, so this op is its own gradient.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface RopeArgs {
  /** [N, H·D] */
  readonly x: Tensor;
  /** f32 [N, D]; D ≤ headDim */
  readonly cosSin: Tensor;
  /** [N, H·D]; may be x */
  readonly y: Tensor;
  /** Columns of a head. */
  readonly headDim: number;
  /** Sign of the angle. */
  readonly direction: "forward" | "backward";
}

const sampleSizes = [
  [1, 1, 2],
  [5, 3, 14],
  [7, 5, 34],
  [19, 4, 64],
] as const;

export const rope: Op<RopeArgs> = {
  name: "rope",
  signature: {
    x: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    cosSin: { access: "in", dims: ["N", "D"], dtypes: ["f64", "f32"] },
    y: { access: "out", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["x"] },
  },
  gradient: {
    op: "rope",
    args: { x: { gradientOf: "y" }, cosSin: "cosSin", y: { gradientOf: "x" } },
    attributes: { direction: "backward" },
  },
  validate({ x, cosSin, headDim, direction }) {
    if (!Number.isSafeInteger(headDim) || headDim < 2) throw broken(rope, "headDim", "a whole number ≥ 2", headDim);
    if (cosSin.cols < 2 || cosSin.cols % 2 !== 0 || cosSin.cols > headDim)
      throw broken(rope, "cosSin.cols", `an even number from 2 to the head dim of ${headDim}`, cosSin.cols);
    if (x.cols % headDim !== 0) throw broken(rope, "x.cols", `whole heads of ${headDim}`, x.cols);
    if (direction !== "forward" && direction !== "backward")
      throw broken(rope, "direction", "forward or backward", direction);
  },
  reference({ x, cosSin, y, headDim, direction }) {
    const half = cosSin.cols / 2;
    const sign = direction === "forward" ? 1 : -1;
    const input = readMatrix(x);
    const angles = readMatrix(cosSin);
    const out = input.slice();
    for (let n = 0; n < x.rows; n++)
      for (let head = n * x.cols; head < (n + 1) * x.cols; head += headDim)
        for (let i = 0; i < half; i++) {
          const cos = angles[n * 2 * half + i]!;
          const sin = sign * angles[n * 2 * half + half + i]!;
          const first = input[head + i]!;
          const second = input[head + half + i]!;
          out[head + i] = first * cos - second * sin;
          out[head + half + i] = second * cos + first * sin;
        }
    writeMatrix(y, out);
  },
  samples: [
    ...(["forward", "backward"] as const).flatMap((direction) =>
      sampleSizes.map(([n, heads, headDim]) => ({
        name: `${direction}, ${n} rows of ${heads}×${headDim}`,
        dtypes: FLOATS,
        make: (m: SampleMaker) => sampleCall(m, n, heads, headDim, direction),
      })),
    ),
    {
      name: "part of each head",
      dtypes: FLOATS,
      make: (m) => sampleCall(m, 5, 3, 14, "forward", 6),
    },
    {
      name: "part of each head, in place",
      dtypes: FLOATS,
      make(m) {
        const args = sampleCall(m, 9, 2, 64, "forward", 32);
        return { ...args, y: args.x };
      },
    },
    {
      name: "in place",
      dtypes: FLOATS,
      make(m) {
        const args = sampleCall(m, 7, 3, 16, "forward");
        return { ...args, y: args.x };
      },
    },
  ],
  badSamples: [
    { name: "an odd head dim", make: (m) => sampleCall(m, 2, 1, 3, "forward") },
    {
      name: "a broken head",
      make: (m) => ({ ...sampleCall(m, 2, 3, 4, "forward"), headDim: 8, cosSin: m.normal("f32", 2, 8) }),
    },
    {
      name: "more than a head",
      make: (m) => ({ ...sampleCall(m, 2, 2, 4, "forward"), cosSin: m.normal("f32", 2, 8) }),
    },
    { name: "no direction", make: (m) => ({ ...sampleCall(m, 2, 1, 4, "forward"), direction: "up" as "forward" }) },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 3 * args.x.rows * args.x.cols, bytes: bytesOf(args) }),
};

function sampleCall(
  m: SampleMaker,
  n: number,
  heads: number,
  headDim: number,
  direction: RopeArgs["direction"],
  dims = headDim,
): RopeArgs {
  const half = Math.floor(dims / 2);
  const angles = readMatrix(m.normal("f64", n, half, 3));
  const cosSin = Float64Array.from({ length: n * dims }, (_, i) => {
    const column = i % dims;
    const angle = angles[Math.floor(i / dims) * half + (column % half)]!;
    return column < half ? Math.cos(angle) : Math.sin(angle);
  });
  return {
    x: m.normal(m.dtype, n, heads * headDim),
    cosSin: m.values(statisticsDtype(m.dtype), n, dims, cosSin),
    y: m.output("out", m.dtype, n, heads * headDim),
    headDim,
    direction,
  };
}
