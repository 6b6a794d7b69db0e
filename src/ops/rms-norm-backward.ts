// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)) per row, or per group of D columns. The weight is frozen: no gradient.
// Derivation: docs/math/rms-norm.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";
import { checkGroups, RMS_NORM_SIZES, rmsNorm } from "./rms-norm.ts";

export interface RmsNormBackwardArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, D]; D divides C */
  readonly weight: Tensor;
  /** f32 [N, C/D] */
  readonly rstd: Tensor;
  /** [N, C] */
  readonly dy: Tensor;
  /** [N, C], accumulated: the residual branch already wrote there */
  readonly dx: Tensor;
}

export const rmsNormBackward: Op<RmsNormBackwardArgs> = {
  name: "rmsNormBackward",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["1", "D"], dtypes: ["f64", "f32", "bf16"] },
    rstd: { access: "in", dims: ["N", "*"], dtypes: ["f64", "f32"] },
    dy: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    dx: { access: "acc", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  validate: ({ x, weight, rstd }) => checkGroups(rmsNormBackward, x, weight, rstd),
  reference({ x, weight, rstd, dy, dx }) {
    const width = weight.cols;
    const input = readMatrix(x);
    const gain = readMatrix(weight);
    const scale = readMatrix(rstd);
    const upstream = readMatrix(dy);
    const out = readMatrix(dx);
    for (const [group, r] of scale.entries()) {
      const from = group * width;
      let mean = 0;
      for (let c = 0; c < width; c++) mean += (upstream[from + c]! * gain[c]! * input[from + c]!) / width;
      for (let c = 0; c < width; c++)
        out[from + c]! += r * (upstream[from + c]! * gain[c]! - input[from + c]! * r * r * mean);
    }
    writeMatrix(dx, out);
  },
  samples: [
    ...RMS_NORM_SIZES.map(([n, c, d]) => ({
      name: `${n}×${c}${d < c ? `, groups of ${d}` : ""}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, n, c, d),
    })),
    {
      name: "f32 weight",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, 5, 67), weight: m.normal(statisticsDtype(m.dtype), 1, 67) }),
    },
  ],
  badSamples: [
    {
      name: "rstd of another height",
      make: (m) => ({ ...sampleCall(m, 2, 3), rstd: m.normal("f32", 3, 1) }),
    },
    {
      name: "one rstd for two groups",
      make: (m) => ({ ...sampleCall(m, 2, 6), weight: m.normal(m.dtype, 1, 3) }),
    },
    {
      name: "dx of another width",
      make: (m) => ({ ...sampleCall(m, 2, 3), dx: m.output("acc", m.dtype, 2, 4) }),
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
  cost: (args) => ({ flops: 8 * args.x.rows * args.x.cols, bytes: bytesOf(args) + bytesOf({ dx: args.dx }) }),
};

/** rstd is that of the forward, rounded as it would save it. */
function sampleCall(m: SampleMaker, n: number, c: number, width = c): RmsNormBackwardArgs {
  const x = m.normal(m.dtype, n, c);
  const weight = m.normal(m.dtype, 1, width);
  const rstd = m.output("out", statisticsDtype(m.dtype), n, c / width);
  rmsNorm.reference({ x, weight, y: m.output("out", m.dtype, n, c), rstd, eps: 1e-5 });
  return { x, weight, rstd, dy: m.normal(m.dtype, n, c), dx: m.output("acc", m.dtype, n, c) };
}
