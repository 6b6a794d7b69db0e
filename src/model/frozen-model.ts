// The frozen base on a device: what a block reads and never changes.

import type { BaseFormat, FrozenWeight } from "../ops/frozen-weight.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ModelConfig } from "./config.ts";

/** The linears of a block, by their Hugging Face names, in the order of the forward. */
export const LINEAR_NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const;
export type LinearName = (typeof LINEAR_NAMES)[number];

export interface FrozenLinear {
  /** [M, K] */
  readonly weight: FrozenWeight;
  /** [1, M] in the compute dtype, or null. */
  readonly bias: Tensor | null;
}

export interface FrozenLayer {
  /** RMSNorm before attention, [1, C]. */
  readonly attentionNorm: Tensor;
  /** RMSNorm before the feed-forward, [1, C]. */
  readonly feedForwardNorm: Tensor;
  readonly linears: Readonly<Record<LinearName, FrozenLinear>>;
}

/** What an adapter remembers of its base. No paths of a machine. */
export interface BaseIdentity {
  /** Hub id, or the folder's last name. */
  readonly name: string;
  readonly revision: string | null;
  /** SHA-256 over the weight files' contents, in name order. */
  readonly sha256: string;
  readonly format: BaseFormat;
  readonly blockSize: number;
  readonly doubleQuant: boolean;
  /** SHA-256 of the chat template's text, or null. */
  readonly templateSha256: string | null;
}

export interface FrozenModel {
  readonly config: ModelConfig;
  readonly identity: BaseIdentity;
  /** Dtype of activations, norms and biases. */
  readonly computeDtype: "bf16" | "f32";
  /** [V, C], bf16 (f32 when the base format is f32). */
  readonly embedding: Tensor;
  /** [V, C]; the same tensor as `embedding` when tied. */
  readonly head: Tensor;
  readonly finalNorm: Tensor;
  readonly layers: readonly FrozenLayer[];
  /** Device bytes of the whole base. */
  readonly bytes: number;
  dispose(): void;
}

/** In- and out-features of each linear of a block. */
export function linearShapes(config: ModelConfig): Record<LinearName, { in: number; out: number }> {
  const { hidden, intermediate, heads, kvHeads, headDim } = config;
  return {
    q_proj: { in: hidden, out: heads * headDim },
    k_proj: { in: hidden, out: kvHeads * headDim },
    v_proj: { in: hidden, out: kvHeads * headDim },
    o_proj: { in: heads * headDim, out: hidden },
    gate_proj: { in: hidden, out: intermediate },
    up_proj: { in: hidden, out: intermediate },
    down_proj: { in: intermediate, out: hidden },
  };
}

/** Hugging Face module path of a linear inside its layer. */
export function modulePath(name: LinearName): string {
  return name === "gate_proj" || name === "up_proj" || name === "down_proj" ? `mlp.${name}` : `self_attn.${name}`;
}
