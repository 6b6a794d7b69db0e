// dUp = dy⊙a(gate);  dGate = dy⊙up⊙a'(gate) for an activation a of ops/activation.ts. Derivation: docs/math/glu.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { ACTIVATIONS, type Activation, activate, slopeOf } from "./activation.ts";
import { checkActivation } from "./glu.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface GluBackwardArgs {
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
  readonly activation: Activation;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [32, 384],
] as const;

export const gluBackward: Op<GluBackwardArgs> = {
  name: "gluBackward",
  signature: {
    gate: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    up: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    dy: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    dGate: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["gate"] },
    dUp: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["up", "dy"] },
  },
  validate: ({ activation }) => checkActivation(gluBackward, activation),
  reference({ gate, up, dy, dGate, dUp, activation }) {
    const z = readMatrix(gate);
    const factor = readMatrix(up);
    const upstream = readMatrix(dy);
    writeMatrix(
      dUp,
      upstream.map((d, i) => d * activate(activation, z[i]!)),
    );
    writeMatrix(
      dGate,
      upstream.map((d, i) => d * factor[i]! * slopeOf(activation, z[i]!)),
    );
  },
  samples: ACTIVATIONS.flatMap((activation) => [
    ...sampleSizes.map(([n, f]) => ({
      name: `${activation}, ${n}×${f}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, n, f, activation),
    })),
    ...(["up", "dy"] as const).map((over) => ({
      name: `${activation}, over gate and ${over}`,
      dtypes: FLOATS,
      make(m: SampleMaker) {
        const args = sampleCall(m, 5, 67, activation);
        return { ...args, dGate: args.gate, dUp: args[over] };
      },
    })),
    {
      name: `${activation}, exp overflows, NaN`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({
        ...sampleCall(m, 1, 8, activation),
        gate: m.values(m.dtype, 1, 8, [0, -0, 100, -100, 1000, -1000, Number.NaN, 1e-30]),
      }),
    },
  ]),
  badSamples: [
    {
      name: "dUp of another width",
      make: (m) => ({ ...sampleCall(m, 2, 3, "silu"), dUp: m.output("out", m.dtype, 2, 4) }),
    },
    { name: "an unknown activation", make: (m) => ({ ...sampleCall(m, 2, 3, "silu"), activation: "relu" as "silu" }) },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some f32 roundings per element; an erf good to 2e-7 of 1" },
    bf16: {
      normalised: 4e-3,
      worst: 5e-2,
      reason:
        "one rounding of the output, at most 2⁻⁹ of the element; a product of three factors reaches 16 times its rms",
    },
  },
  cost: (args) => ({ flops: 12 * args.dy.rows * args.dy.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, n: number, f: number, activation: Activation): GluBackwardArgs {
  return {
    gate: m.normal(m.dtype, n, f, 2),
    up: m.normal(m.dtype, n, f),
    dy: m.normal(m.dtype, n, f),
    dGate: m.output("out", m.dtype, n, f),
    dUp: m.output("out", m.dtype, n, f),
    activation,
  };
}
