// y = silu(gate)⊙up, silu(z) = z/(1+e^−z) (arXiv 2002.05202).

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface SwigluArgs {
  /** [N, F] */
  readonly gate: Tensor;
  /** [N, F] */
  readonly up: Tensor;
  /** [N, F] */
  readonly y: Tensor;
}

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
  // TODO-R reference, samples, badSamples, tolerance, cost
};
