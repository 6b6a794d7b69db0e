// y = silu(gate)⊙up, silu(z) = z/(1+e^−z) (arXiv 2002.05202).

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface SwigluArgs {
  /** [N, F] */
  readonly gate: Tensor;
  /** [N, F] */
  readonly up: Tensor;
  /** [N, F] */
  readonly y: Tensor;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [32, 384],
] as const;

export const swiglu: Op<SwigluArgs> = {
  name: "swiglu",
  signature: {
    gate: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    up: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
  },
  gradient: {
    op: "swigluBackward",
    args: { gate: "gate", up: "up", dy: { gradientOf: "y" }, dGate: { gradientOf: "gate" }, dUp: { gradientOf: "up" } },
  },
  reference({ gate, up, y }) {
    const factor = readMatrix(up);
    writeMatrix(
      y,
      readMatrix(gate).map((z, i) => (z / (1 + Math.exp(-z))) * factor[i]!),
    );
  },
  samples: [
    ...sampleSizes.map(([n, f]) => ({
      name: `${n}×${f}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({
        gate: m.normal(m.dtype, n, f, 2),
        up: m.normal(m.dtype, n, f),
        y: m.output("out", m.dtype, n, f),
      }),
    })),
    {
      name: "exp overflows, NaN",
      dtypes: FLOATS,
      make: (m) => ({
        gate: m.values(m.dtype, 1, 8, [0, -0, 100, -100, 1000, -1000, Number.NaN, 1e-30]),
        up: m.normal(m.dtype, 1, 8),
        y: m.output("out", m.dtype, 1, 8),
      }),
    },
  ],
  badSamples: [
    {
      name: "gate and up of two widths",
      make: (m) => ({
        gate: m.normal(m.dtype, 2, 3),
        up: m.normal(m.dtype, 2, 4),
        y: m.output("out", m.dtype, 2, 3),
      }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 5 * args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};
