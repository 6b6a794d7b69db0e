// With σ = sigmoid(gate): dUp = dy·gate·σ;  dGate = dy·up·σ·(1 + gate·(1 − σ)).

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

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
  // TODO-R reference, samples, badSamples, tolerance, cost
};
