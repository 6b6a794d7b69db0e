// With g = dy⊙weight and x̂ = (x − mean)·rstd:  dx += rstd·(g − mean(g) − x̂·mean(g⊙x̂)) per row. The weight and bias are
// frozen: no gradient. Derivation: docs/math/layer-norm.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { layerNorm } from "./layer-norm.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface LayerNormBackwardArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [1, C] */
  readonly weight: Tensor;
  /** f32 [N, 1] */
  readonly mean: Tensor;
  /** f32 [N, 1] */
  readonly rstd: Tensor;
  /** [N, C] */
  readonly dy: Tensor;
  /** [N, C], accumulated: the residual branch already wrote there */
  readonly dx: Tensor;
}

export const layerNormBackward: Op<LayerNormBackwardArgs> = {
  name: "layerNormBackward",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["1", "C"], dtypes: ["f64", "f32", "bf16"] },
    mean: { access: "in", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    rstd: { access: "in", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    dy: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    dx: { access: "acc", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
  },
  reference({ x, weight, mean, rstd, dy, dx }) {
    const { rows, cols } = x;
    const input = readMatrix(x);
    const gain = readMatrix(weight);
    const centre = readMatrix(mean);
    const scale = readMatrix(rstd);
    const upstream = readMatrix(dy);
    const out = readMatrix(dx);
    for (let n = 0; n < rows; n++) {
      const row = n * cols;
      const normalised = (c: number) => (input[row + c]! - centre[n]!) * scale[n]!;
      let sum = 0;
      let pull = 0;
      for (let c = 0; c < cols; c++) {
        sum += upstream[row + c]! * gain[c]!;
        pull += upstream[row + c]! * gain[c]! * normalised(c);
      }
      for (let c = 0; c < cols; c++)
        out[row + c]! += scale[n]! * (upstream[row + c]! * gain[c]! - sum / cols - (normalised(c) * pull) / cols);
    }
    writeMatrix(dx, out);
  },
  samples: [
    ...[
      [1, 1],
      [3, 7],
      [19, 129],
      [32, 576],
    ].map(([n, c]) => ({
      name: `${n}×${c}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, n!, c!),
    })),
    {
      name: "f32 weight",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, 5, 67), weight: m.normal(statisticsDtype(m.dtype), 1, 67) }),
    },
    { name: "a mean of 10 deviations", dtypes: FLOATS, make: (m) => sampleCall(m, 3, 521, 10) },
  ],
  badSamples: [
    {
      name: "mean of another height",
      make: (m) => ({ ...sampleCall(m, 2, 3), mean: m.normal("f32", 3, 1) }),
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
  cost: (args) => ({ flops: 11 * args.x.rows * args.x.cols, bytes: bytesOf(args) + bytesOf({ dx: args.dx }) }),
};

/** mean and rstd are those of the forward, rounded as it would save them. */
function sampleCall(m: SampleMaker, n: number, c: number, offset = 0): LayerNormBackwardArgs {
  const drawn = readMatrix(m.normal("f64", n, c)).map((value) => value + offset);
  const x = m.values(m.dtype, n, c, drawn);
  const weight = m.normal(m.dtype, 1, c);
  const mean = m.output("out", statisticsDtype(m.dtype), n, 1);
  const rstd = m.output("out", statisticsDtype(m.dtype), n, 1);
  layerNorm.reference({ x, weight, bias: null, y: m.output("out", m.dtype, n, c), mean, rstd, eps: 1e-5 });
  return { x, weight, mean, rstd, dy: m.normal(m.dtype, n, c), dx: m.output("acc", m.dtype, n, c) };
}
