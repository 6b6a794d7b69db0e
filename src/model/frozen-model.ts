// The frozen base on a device: what a block reads and never changes.

import type { BaseFormat, FrozenWeight } from "../ops/frozen-weight.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { FamilyName, LinearName, ModelConfig, NormName } from "./config.ts";

export interface FrozenLinear {
  /** [M, K] */
  readonly weight: FrozenWeight;
  /** [1, M] in the compute dtype, or null. */
  readonly bias: Tensor | null;
}

/** A norm's parameters, [1, C] each ([1, D] for heads) in the compute dtype; the weight may be f32. */
export interface FrozenNorm {
  readonly weight: Tensor;
  /** null: none. */
  readonly bias: Tensor | null;
}

export interface FrozenLayer {
  /** Those that the block has. */
  readonly norms: Readonly<Partial<Record<NormName, FrozenNorm>>>;
  readonly linears: Readonly<Record<LinearName, FrozenLinear>>;
}

/** What an adapter remembers of its base. No paths of a machine. */
export interface BaseIdentity {
  /** Hub id, or the folder's last name. */
  readonly name: string;
  readonly revision: string | null;
  /** Tells an adapter what the modules of its linears are called. */
  readonly family: FamilyName;
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
  /** [positions, C], of the embedding's dtype, or null: positions are not learned. */
  readonly positions: Tensor | null;
  /** [V, C]; the same tensor as `embedding` when tied. */
  readonly head: Tensor;
  readonly finalNorm: FrozenNorm;
  readonly layers: readonly FrozenLayer[];
  /** Device bytes of the whole base. */
  readonly bytes: number;
  dispose(): void;
}
