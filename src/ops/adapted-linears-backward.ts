// With g_i = s·dY_i·B_i[:b]ᵀ (rows of the range) and t_i = s·x·A_i[:b]ᵀ from the forward:
//   dX = Σ_i (dY_i·deq(W_i) + g_i·A_i[:b]);   dA_i[:b] += g_iᵀ·x;   dB_i[:b] += t_iᵀ·dY_i.
// Rows ≥ b of dA and dB are not touched. W is frozen: no gradient. Derivation: docs/math/adapted-linears.md.

import type { Tensor } from "../tensor/tensor.ts";
import type { FrozenWeight } from "./frozen-weight.ts";
import type { Op } from "./op.ts";
import type { RankRange } from "./rank-range.ts";

export interface AdaptedLinearsBackwardArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** 1–4 frozen weights [M_i, K] that share x */
  readonly weights: readonly FrozenWeight[];
  /** [R, K] */
  readonly a: readonly (Tensor | null)[];
  /** [R, M_i] */
  readonly b: readonly (Tensor | null)[];
  /** [N, R] */
  readonly t: readonly (Tensor | null)[];
  /** [N, M_i] */
  readonly dy: readonly Tensor[];
  /** [N, K]; null where nothing before it learns */
  readonly dx: Tensor | null;
  /** f32 [R, K] */
  readonly da: readonly (Tensor | null)[];
  /** f32 [R, M_i] */
  readonly db: readonly (Tensor | null)[];
  /** As in the forward. */
  readonly ranges: readonly RankRange[];
}

export const adaptedLinearsBackward: Op<AdaptedLinearsBackwardArgs> = {
  name: "adaptedLinearsBackward",
  signature: {
    x: { access: "in", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"] },
    a: { access: "in", dims: ["R", "K"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    b: { access: "in", dims: ["R", "M"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: ["M"] } },
    t: { access: "in", dims: ["N", "R"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    dy: { access: "in", dims: ["N", "M"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["M"] } },
    dx: { access: "out", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"], optional: true },
    da: { access: "acc", dims: ["R", "K"], dtypes: ["f64", "f32"], optional: true, list: { varying: [] } },
    db: { access: "acc", dims: ["R", "M"], dtypes: ["f64", "f32"], optional: true, list: { varying: ["M"] } },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
