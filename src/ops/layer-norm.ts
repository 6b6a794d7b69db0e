// y = (x − mean)·rstd·weight + bias, rstd = 1/√(var(x) + eps) per row, var over all C without correction
// (arXiv 1607.06450, eq. 4). Computed in f32: the mean first, then the squares of what differs from it, since mean(x²) − mean²
// loses its digits where the mean is large. mean and rstd are saved. The weight and bias may be f32 beside bf16.
// Backward: docs/math/layer-norm.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface LayerNormArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, C] */
  readonly weight: Tensor;
  /** [1, C] or null */
  readonly bias: Tensor | null;
  /** [N, C] */
  readonly y: Tensor;
  /** [N, 1], f32 (f64 in gradient checks) */
  readonly mean: Tensor;
  /** [N, 1], f32 (f64 in gradient checks) */
  readonly rstd: Tensor;
  /** Added to the variance: keeps a constant row finite. */
  readonly eps: number;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [19, 129],
  [32, 576],
] as const;

export const layerNorm: Op<LayerNormArgs> = {
  name: "layerNorm",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["1", "C"], dtypes: ["f64", "f32", "bf16"] },
    bias: { access: "in", dims: ["1", "C"], dtypes: ["f64", "f32", "bf16"], optional: true },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    mean: { access: "out", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    rstd: { access: "out", dims: ["N", "1"], dtypes: ["f64", "f32"] },
  },
  gradient: {
    op: "layerNormBackward",
    args: { x: "x", weight: "weight", mean: "mean", rstd: "rstd", dy: { gradientOf: "y" }, dx: { gradientOf: "x" } },
  },
  validate({ eps }) {
    if (!(eps > 0)) throw broken(layerNorm, "eps", "a number > 0, which keeps a constant row finite", eps);
  },
  reference({ x, weight, bias, y, mean, rstd, eps }) {
    const { rows, cols } = x;
    const input = readMatrix(x);
    const gain = readMatrix(weight);
    const shift = bias && readMatrix(bias);
    const centre = new Float64Array(rows);
    const scale = new Float64Array(rows);
    for (let n = 0; n < rows; n++) {
      const row = input.subarray(n * cols, (n + 1) * cols);
      centre[n] = row.reduce((sum, value) => sum + value, 0) / cols;
      const squares = row.reduce((sum, value) => sum + (value - centre[n]!) ** 2, 0);
      scale[n] = 1 / Math.sqrt(squares / cols + eps);
    }
    writeMatrix(mean, centre);
    writeMatrix(rstd, scale);
    writeMatrix(
      y,
      input.map((value, i) => {
        const n = Math.floor(i / cols);
        return (value - centre[n]!) * scale[n]! * gain[i % cols]! + (shift?.[i % cols] ?? 0);
      }),
    );
  },
  samples: [
    ...sampleSizes.map(([n, c]) => ({
      name: `${n}×${c}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, m.normal(m.dtype, n, c)),
    })),
    {
      name: "no bias",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 5, 67)), bias: null }),
    },
    {
      name: "f32 weight and bias",
      dtypes: FLOATS,
      make: (m) => ({
        ...sampleCall(m, m.normal(m.dtype, 5, 67)),
        weight: m.normal(statisticsDtype(m.dtype), 1, 67),
        bias: m.normal(statisticsDtype(m.dtype), 1, 67),
      }),
    },
    {
      name: "a mean of 100 deviations",
      dtypes: FLOATS,
      make(m) {
        const drawn = readMatrix(m.normal("f64", 7, 1031));
        const rows = drawn.map((value, i) => value + (Math.floor(i / 1031) % 2 === 0 ? 100 : -100));
        return sampleCall(m, m.values(m.dtype, 7, 1031, rows));
      },
    },
    {
      name: "a zero row, a constant, a huge and a NaN row",
      dtypes: FLOATS,
      make: (m) => sampleCall(m, m.values(m.dtype, 4, 3, [0, 0, 0, 2, 2, 2, 1e15, -2e15, 3e15, 1, Number.NaN, 2])),
    },
  ],
  badSamples: [
    { name: "eps 0", make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 2, 3)), eps: 0 }) },
    {
      name: "a bias of another width",
      make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 2, 3)), bias: m.normal(m.dtype, 1, 4) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-12, reason: "double precision, another order of the same operations" },
    f32: {
      normalised: 1e-5,
      worst: 1e-4,
      reason: "a few f32 roundings per element; that of the mean counts as often as it is larger than the deviation",
    },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 7 * args.x.rows * args.x.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, x: Tensor): LayerNormArgs {
  return {
    x,
    weight: m.normal(m.dtype, 1, x.cols),
    bias: m.normal(m.dtype, 1, x.cols),
    y: m.output("out", m.dtype, x.rows, x.cols),
    mean: m.output("out", statisticsDtype(m.dtype), x.rows, 1),
    rstd: m.output("out", statisticsDtype(m.dtype), x.rows, 1),
    eps: 1e-5,
  };
}
