// The op this project exists for: 1–4 frozen linears that share x, each with the first b rows of its adapter.
//   t_i = s·x·A_i[:b]ᵀ;   y_i = x·deq(W_i)ᵀ (+ bias_i) + t_i·B_i[:b]
// A is stored [R, K] and B as Bᵀ [R, M]: rank b is the first b rows of both (arXiv 2210.07558 eq. 5–7 with s = s(b)).
// b and s may differ between row ranges (a rank per segment); b = 0 is the base alone. Columns ≥ b of t are not written.
// W is decoded in f32 and rounded to the compute dtype. Rows outside all ranges get the base alone.

import type { Tensor } from "../tensor/tensor.ts";
import type { FrozenWeight } from "./frozen-weight.ts";
import type { Op } from "./op.ts";
import type { RankRange } from "./rank-range.ts";

export interface AdaptedLinearsArgs {
  /** [N, K] */
  readonly x: Tensor;
  /** 1–4 frozen weights [M_i, K] that share x */
  readonly weights: readonly FrozenWeight[];
  /** [1, M_i] or null */
  readonly biases: readonly (Tensor | null)[];
  /** [R, K] or null: this linear has no adapter */
  readonly a: readonly (Tensor | null)[];
  /** [R, M_i] */
  readonly b: readonly (Tensor | null)[];
  /** [N, R], saved for backward */
  readonly t: readonly (Tensor | null)[];
  /** [N, M_i] */
  readonly y: readonly Tensor[];
  /** Disjoint row ranges with their rank and scale. */
  readonly ranges: readonly RankRange[];
}

export const adaptedLinears: Op<AdaptedLinearsArgs> = {
  name: "adaptedLinears",
  signature: {
    x: { access: "in", dims: ["N", "K"], dtypes: ["f64", "f32", "bf16"] },
    biases: {
      access: "in",
      dims: ["1", "M"],
      dtypes: ["f64", "f32", "bf16"],
      optional: true,
      list: { varying: ["M"] },
    },
    a: { access: "in", dims: ["R", "K"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    b: { access: "in", dims: ["R", "M"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: ["M"] } },
    t: { access: "out", dims: ["N", "R"], dtypes: ["f64", "f32", "bf16"], optional: true, list: { varying: [] } },
    y: { access: "out", dims: ["N", "M"], dtypes: ["f64", "f32", "bf16"], list: { varying: ["M"] } },
  },
  gradient: {
    op: "adaptedLinearsBackward",
    args: {
      x: "x",
      weights: "weights",
      a: "a",
      b: "b",
      t: "t",
      dy: { gradientOf: "y" },
      dx: { gradientOf: "x" },
      da: { gradientOf: "a" },
      db: { gradientOf: "b" },
    },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
