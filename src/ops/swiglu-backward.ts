// With σ = sigmoid(gate): dUp = dy·gate·σ;  dGate = dy·up·σ·(1 + gate·(1 − σ)).

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op } from "./op.ts";

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
  samples: [],
  badSamples: [],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "a few f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 10 * args.dy.rows * args.dy.cols, bytes: bytesOf(args) }),
};
