// Attention of new queries over a key/value cache: query row i sees cache rows slots[i] .. slots[i] + lengths[i] − 1.
// Serves prefill (one row per prompt token) and decode alike; the new keys and values were appended before.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface AttentionCachedArgs {
  /** [Q, H·D] */
  readonly q: Tensor;
  /** [T, G·D] */
  readonly kCache: Tensor;
  /** [T, G·D] */
  readonly vCache: Tensor;
  /** i32 [Q, 1]: first cache row of the sequence */
  readonly slots: Tensor;
  /** i32 [Q, 1]: visible keys, ≥ 1 */
  readonly lengths: Tensor;
  /** [Q, H·D] */
  readonly o: Tensor;
  /** D */
  readonly headDim: number;
  /** Factor on q·k, usually 1/√D. */
  readonly scale: number;
}

export const attentionCached: Op<AttentionCachedArgs> = {
  name: "attentionCached",
  signature: {
    q: { access: "in", dims: ["Q", "HD"], dtypes: ["f64", "f32", "bf16"] },
    kCache: { access: "in", dims: ["T", "GD"], dtypes: ["f64", "f32", "bf16"] },
    vCache: { access: "in", dims: ["T", "GD"], dtypes: ["f64", "f32", "bf16"] },
    slots: { access: "in", dims: ["Q", "1"], dtypes: ["i32"] },
    lengths: { access: "in", dims: ["Q", "1"], dtypes: ["i32"] },
    o: { access: "out", dims: ["Q", "HD"], dtypes: ["f64", "f32", "bf16"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
