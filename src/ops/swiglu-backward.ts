// With σ = sigmoid(gate): dUp = dy·gate·σ;  dGate = dy·up·σ·(1 + gate·(1 − σ)).
// Derivation: docs/math/swiglu.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface SwigluBackwardArgs {
  /** [N, F] */
  readonly gate: Tensor;
  /** [N, F] */
  readonly up: Tensor;
  /** [N, F] */
  readonly dy: Tensor;
  /** [N, F]; may be gate */
  readonly dGate: Tensor;
  /** [N, F]; may be up or dy */
  readonly dUp: Tensor;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [32, 384],
] as const;

export const swigluBackward: Op<SwigluBackwardArgs> = {
  name: "swigluBackward",
  signature: {
    gate: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    up: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    dy: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    dGate: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["gate"] },
    dUp: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["up", "dy"] },
  },
  reference({ gate, up, dy, dGate, dUp }) {
    const z = readMatrix(gate);
    const factor = readMatrix(up);
    const upstream = readMatrix(dy);
    const sigma = z.map((value) => 1 / (1 + Math.exp(-value)));
    writeMatrix(
      dUp,
      upstream.map((d, i) => d * z[i]! * sigma[i]!),
    );
    writeMatrix(
      dGate,
      upstream.map((d, i) => d * factor[i]! * sigma[i]! * (1 + z[i]! * (1 - sigma[i]!))),
    );
  },
  samples: [
    ...sampleSizes.map(([n, f]) => ({
      name: `${n}×${f}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, n, f),
    })),
    {
      name: "over gate and up",
      dtypes: FLOATS,
      make(m) {
        const args = sampleCall(m, 5, 67);
        return { ...args, dGate: args.gate, dUp: args.up };
      },
    },
    {
      name: "over gate and dy",
      dtypes: FLOATS,
      make(m) {
        const args = sampleCall(m, 5, 67);
        return { ...args, dGate: args.gate, dUp: args.dy };
      },
    },
    {
      name: "exp overflows, NaN",
      dtypes: FLOATS,
      make: (m) => ({
        ...sampleCall(m, 1, 8),
        gate: m.values(m.dtype, 1, 8, [0, -0, 100, -100, 1000, -1000, Number.NaN, 1e-30]),
      }),
    },
  ],
  badSamples: [
    {
      name: "dUp of another width",
      make: (m) => ({ ...sampleCall(m, 2, 3), dUp: m.output("out", m.dtype, 2, 4) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 10 * args.dy.rows * args.dy.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, n: number, f: number): SwigluBackwardArgs {
  return {
    gate: m.normal(m.dtype, n, f, 2),
    up: m.normal(m.dtype, n, f),
    dy: m.normal(m.dtype, n, f),
    dGate: m.output("out", m.dtype, n, f),
    dUp: m.output("out", m.dtype, n, f),
  };
}
