// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)) per row. The weight is frozen: no gradient.
// Derivation: docs/math/rms-norm.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface RmsNormBackwardArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, C] */
  readonly weight: Tensor;
  /** [N, 1] */
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
    weight: { access: "in", dims: ["1", "C"], dtypes: ["f64", "f32", "bf16"] },
    rstd: { access: "in", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    dy: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    dx: { access: "acc", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  reference({ x, weight, rstd, dy, dx }) {
    const { rows, cols } = x;
    const input = readMatrix(x);
    const gain = readMatrix(weight);
    const scale = readMatrix(rstd);
    const upstream = readMatrix(dy);
    const out = readMatrix(dx);
    for (let n = 0; n < rows; n++) {
      const row = n * cols;
      const r = scale[n]!;
      let mean = 0;
      for (let c = 0; c < cols; c++) mean += (upstream[row + c]! * gain[c]! * input[row + c]!) / cols;
      for (let c = 0; c < cols; c++)
        out[row + c]! += r * (upstream[row + c]! * gain[c]! - input[row + c]! * r * r * mean);
    }
    writeMatrix(dx, out);
  },
  samples: [
    [1, 1],
    [3, 7],
    [19, 129],
    [32, 576],
  ].map(([n, c]) => ({
    name: `${n}×${c}`,
    dtypes: FLOATS,
    make: (m: SampleMaker) => sampleCall(m, n!, c!),
  })),
  badSamples: [
    {
      name: "rstd of another height",
      make: (m) => ({ ...sampleCall(m, 2, 3), rstd: m.normal("f32", 3, 1) }),
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
  cost: (args) => ({ flops: 8 * args.x.rows * args.x.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, n: number, c: number): RmsNormBackwardArgs {
  const x = m.normal(m.dtype, n, c);
  const values = readMatrix(x);
  const rstd = Float64Array.from({ length: n }, (_, row) => {
    const squares = values.subarray(row * c, (row + 1) * c).reduce((sum, value) => sum + value * value, 0);
    return 1 / Math.sqrt(squares / c + 1e-5);
  });
  return {
    x,
    weight: m.normal(m.dtype, 1, c),
    rstd: m.values(statisticsDtype(m.dtype), n, 1, rstd),
    dy: m.normal(m.dtype, n, c),
    dx: m.output("acc", m.dtype, n, c),
  };
}
