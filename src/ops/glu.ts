// y = a(gate)⊙up for an activation a of ops/activation.ts (arXiv 2002.05202: SwiGLU with silu, GEGLU with gelu).
// Backward: docs/math/glu.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { ACTIVATIONS, type Activation, activate } from "./activation.ts";
import { broken, bytesOf, FLOATS, type Named, type Op, type SampleMaker } from "./op.ts";

export interface GluArgs {
  /** [N, F] */
  readonly gate: Tensor;
  /** [N, F] */
  readonly up: Tensor;
  /** [N, F] */
  readonly y: Tensor;
  readonly activation: Activation;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [32, 384],
] as const;

export const glu: Op<GluArgs> = {
  name: "glu",
  signature: {
    gate: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    up: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
  },
  gradient: {
    op: "gluBackward",
    args: { gate: "gate", up: "up", dy: { gradientOf: "y" }, dGate: { gradientOf: "gate" }, dUp: { gradientOf: "up" } },
  },
  validate: ({ activation }) => checkActivation(glu, activation),
  reference({ gate, up, y, activation }) {
    const factor = readMatrix(up);
    writeMatrix(
      y,
      readMatrix(gate).map((z, i) => activate(activation, z) * factor[i]!),
    );
  },
  samples: ACTIVATIONS.flatMap((activation) => [
    ...sampleSizes.map(([n, f]) => ({
      name: `${activation}, ${n}×${f}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({
        gate: m.normal(m.dtype, n, f, 2),
        up: m.normal(m.dtype, n, f),
        y: m.output("out", m.dtype, n, f),
        activation,
      }),
    })),
    {
      name: `${activation}, exp overflows, NaN`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({
        gate: m.values(m.dtype, 1, 8, [0, -0, 100, -100, 1000, -1000, Number.NaN, 1e-30]),
        up: m.normal(m.dtype, 1, 8),
        y: m.output("out", m.dtype, 1, 8),
        activation,
      }),
    },
  ]),
  badSamples: [
    {
      name: "gate and up of two widths",
      make: (m) => ({
        gate: m.normal(m.dtype, 2, 3),
        up: m.normal(m.dtype, 2, 4),
        y: m.output("out", m.dtype, 2, 3),
        activation: "silu",
      }),
    },
    {
      name: "an unknown activation",
      make: (m) => ({
        gate: m.normal(m.dtype, 2, 3),
        up: m.normal(m.dtype, 2, 3),
        y: m.output("out", m.dtype, 2, 3),
        activation: "relu" as "silu",
      }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some f32 roundings per element; an erf good to 2e-7 of 1" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 6 * args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};

export function checkActivation(op: Named, activation: Activation): void {
  if (!ACTIVATIONS.includes(activation)) throw broken(op, "activation", ACTIVATIONS.join(" or "), activation);
}
