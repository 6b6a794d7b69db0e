// With P = exp(scale·q·kᵀ − lse) and δ_n = dO_n·o_n:  dV = Pᵀ dO;  dS = P⊙(dO·Vᵀ − δ);  dQ = scale·dS·K;
// dK = scale·dSᵀ·Q, summed over the query heads of a group (arXiv 2307.08691 §3.1.2). Tail padding rows: 0.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface AttentionBackwardArgs {
  /** [N, H·D] */
  readonly q: Tensor;
  /** [N, G·D] */
  readonly k: Tensor;
  /** [N, G·D] */
  readonly v: Tensor;
  /** i32 [S+1, 1]: first row of each segment, then the end; rows from starts[S] on are tail padding */
  readonly starts: Tensor;
  /** [N, H·D] */
  readonly o: Tensor;
  /** f32 [N, H] */
  readonly lse: Tensor;
  /** [N, H·D] */
  readonly dO: Tensor;
  /** [N, H·D] */
  readonly dq: Tensor;
  /** [N, G·D] */
  readonly dk: Tensor;
  /** [N, G·D] */
  readonly dv: Tensor;
  /** D */
  readonly headDim: number;
  /** Factor on q·k, usually 1/√D. */
  readonly scale: number;
}

export const attentionBackward: Op<AttentionBackwardArgs> = {
  name: "attentionBackward",
  signature: {
    q: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    k: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    v: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    starts: { access: "in", dims: ["S+1", "1"], dtypes: ["i32"] },
    o: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    lse: { access: "in", dims: ["N", "H"], dtypes: ["f64", "f32"] },
    dO: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    dq: { access: "out", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    dk: { access: "out", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    dv: { access: "out", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
