// y = x · rstd · weight, rstd = 1/√(mean(x²) + eps) (arXiv 1910.07467, eq. 4), over whole rows, or over each group of D
// columns by itself, with the same weight for all groups: the norm of every query or key head. Computed in f32; the weight
// may be f32 beside bf16, so that 1 + w need not be rounded to bf16. rstd is saved.
// Backward: docs/math/rms-norm.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Named, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface RmsNormArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, D]; D divides C */
  readonly weight: Tensor;
  /** [N, C] */
  readonly y: Tensor;
  /** [N, C/D], f32 (f64 in gradient checks) */
  readonly rstd: Tensor;
  /** Added to the mean square: keeps a zero row finite. */
  readonly eps: number;
}

/** Rows, columns, columns of a group. */
export const RMS_NORM_SIZES = [
  [1, 1, 1],
  [3, 7, 7],
  [19, 129, 129],
  [32, 576, 576],
  [7, 6, 1],
  [5, 15, 3],
  [19, 258, 86],
  [33, 512, 64],
] as const;

export const rmsNorm: Op<RmsNormArgs> = {
  name: "rmsNorm",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["1", "D"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    rstd: { access: "out", dims: ["N", "*"], dtypes: ["f64", "f32"] },
  },
  gradient: {
    op: "rmsNormBackward",
    args: { x: "x", weight: "weight", rstd: "rstd", dy: { gradientOf: "y" }, dx: { gradientOf: "x" } },
  },
  validate({ x, weight, rstd, eps }) {
    checkGroups(rmsNorm, x, weight, rstd);
    if (!(eps > 0)) throw broken(rmsNorm, "eps", "a number > 0, which keeps a zero row finite", eps);
  },
  reference({ x, weight, y, rstd, eps }) {
    const width = weight.cols;
    const input = readMatrix(x);
    const gain = readMatrix(weight);
    const scale = Float64Array.from({ length: rstd.rows * rstd.cols }, (_, group) => {
      const values = input.subarray(group * width, (group + 1) * width);
      return 1 / Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / width + eps);
    });
    writeMatrix(rstd, scale);
    writeMatrix(
      y,
      input.map((value, i) => value * scale[Math.floor(i / width)]! * gain[i % width]!),
    );
  },
  samples: [
    ...RMS_NORM_SIZES.map(([n, c, d]) => ({
      name: `${n}×${c}${d < c ? `, groups of ${d}` : ""}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, m.normal(m.dtype, n, c), d),
    })),
    {
      name: "f32 weight",
      dtypes: FLOATS,
      make: (m) => ({
        ...sampleCall(m, m.normal(m.dtype, 5, 67)),
        weight: m.normal(statisticsDtype(m.dtype), 1, 67),
      }),
    },
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
      name: "a weight wider than a row",
      make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 2, 3)), weight: m.normal(m.dtype, 1, 4) }),
    },
    {
      name: "groups that do not fill a row",
      make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 2, 6)), weight: m.normal(m.dtype, 1, 4) }),
    },
    {
      name: "one rstd for two groups",
      make: (m) => ({ ...sampleCall(m, m.normal(m.dtype, 2, 6)), weight: m.normal(m.dtype, 1, 3) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 4 * args.x.rows * args.x.cols, bytes: bytesOf(args) }),
};

/** Groups must be whole, and each must have its rstd. */
export function checkGroups(op: Named, x: Tensor, weight: Tensor, rstd: Tensor): void {
  if (weight.cols === 0 || x.cols % weight.cols !== 0)
    throw broken(op, "weight.cols", `a divisor of the ${x.cols} columns of x`, weight.cols);
  const groups = x.cols / weight.cols;
  if (rstd.cols !== groups) throw broken(op, "rstd.cols", `${groups}, one for each group of x`, rstd.cols);
}

function sampleCall(m: SampleMaker, x: Tensor, width = x.cols): RmsNormArgs {
  return {
    x,
    weight: m.normal(m.dtype, 1, width),
    y: m.output("out", m.dtype, x.rows, x.cols),
    rstd: m.output("out", statisticsDtype(m.dtype), x.rows, x.cols / width),
    eps: 1e-5,
  };
}
