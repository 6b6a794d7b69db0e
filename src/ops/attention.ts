// Causal softmax attention within each segment; query head h reads key/value head h div (H/G).
//   o_n = Σ_{j ≤ n, same segment} softmax(scale·q_n·k_j) v_j;   lse_n = log Σ_j exp(scale·q_n·k_j), saved for backward.
// Tail padding rows: o = 0, lse = 0. No query sees another segment, to the bit.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface AttentionArgs {
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
  /** D */
  readonly headDim: number;
  /** Factor on q·k, usually 1/√D. */
  readonly scale: number;
}

export const attention: Op<AttentionArgs> = {
  name: "attention",
  signature: {
    q: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    k: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    v: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    starts: { access: "in", dims: ["S+1", "1"], dtypes: ["i32"] },
    o: { access: "out", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    lse: { access: "out", dims: ["N", "H"], dtypes: ["f64", "f32"] },
  },
  gradient: {
    op: "attentionBackward",
    args: {
      q: "q",
      k: "k",
      v: "v",
      starts: "starts",
      o: "o",
      lse: "lse",
      dO: { gradientOf: "o" },
      dq: { gradientOf: "q" },
      dk: { gradientOf: "k" },
      dv: { gradientOf: "v" },
    },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
