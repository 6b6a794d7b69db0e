// y = x · rstd · weight, rstd = 1/√(mean(x²) + eps) per row (arXiv 1910.07467, eq. 4). Computed in f32. rstd is saved.
// Backward: docs/math/rms-norm.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface RmsNormArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, C] */
  readonly weight: Tensor;
  /** [N, C] */
  readonly y: Tensor;
  /** [N, 1], f32 (f64 in gradient checks) */
  readonly rstd: Tensor;
  /** Added to the mean square: keeps a zero row finite. */
  readonly eps: number;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [19, 129],
  [32, 576],
] as const;

export const rmsNorm: Op<RmsNormArgs> = {
  name: "rmsNorm",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["1", "C"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    rstd: { access: "out", dims: ["N", "1"], dtypes: ["f64", "f32"] },
  },
  gradient: {
    op: "rmsNormBackward",
    args: { x: "x", weight: "weight", rstd: "rstd", dy: { gradientOf: "y" }, dx: { gradientOf: "x" } },
  },
  validate({ eps }) {
    if (!(eps > 0)) throw broken(rmsNorm, "eps", "a number > 0, which keeps a zero row finite", eps);
  },
  reference({ x, weight, y, rstd, eps }) {
    const { rows, cols } = x;
    const input = readMatrix(x);
    const gain = readMatrix(weight);
    const scale = new Float64Array(rows);
    for (let n = 0; n < rows; n++) {
      let squares = 0;
      for (let c = 0; c < cols; c++) squares += input[n * cols + c]! ** 2;
      scale[n] = 1 / Math.sqrt(squares / cols + eps);
    }
    writeMatrix(rstd, scale);
    writeMatrix(
      y,
      input.map((value, i) => value * scale[Math.floor(i / cols)]! * gain[i % cols]!),
    );
  },
  samples: [
    ...sampleSizes.map(([n, c]) => ({
      name: `${n}×${c}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, m.normal(m.dtype, n, c)),
    })),
    {
      name: "a zero row, huge, tiny and NaN rows",
      dtypes: FLOATS,
      make: (m) =>
        sampleCall(m, m.values(m.dtype, 4, 3, [0, 0, 0, 1e15, -2e15, 3e15, 1e-20, 2e-20, 0, 1, Number.NaN, 2])),
    },
  ],
  badSamples: [
    { name: "eps 0", make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 2, 3)), eps: 0 }) },
    {
      name: "a weight of another width",
      make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 2, 3)), weight: m.normal(m.dtype, 1, 4) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 4 * args.x.rows * args.x.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, x: Tensor): RmsNormArgs {
  return {
    x,
    weight: m.normal(m.dtype, 1, x.cols),
    y: m.output("out", m.dtype, x.rows, x.cols),
    rstd: m.output("out", statisticsDtype(m.dtype), x.rows, 1),
    eps: 1e-5,
  };
}
