// The configuration of a model as the rest of the code sees it, whatever file it came from: sizes, and how its blocks are
// put together. A family (families/*.ts) makes it from config.json; model/blocks reads it. Export writes the file's own
// JSON back (`Checkpoint.configJson`), so nothing that is not understood here gets lost.

import type { Activation } from "../ops/activation.ts";
import type { GeluForm } from "../ops/gelu.ts";

/** Model families, each with a file in model/families. */
export const FAMILY_NAMES = [
  "llama",
  "falcon",
  "mistral",
  "qwen2",
  "qwen3",
  "gemma2",
  "gemma3",
  "phi3",
  "gpt-neox",
  "gpt2",
] as const;
export type FamilyName = (typeof FAMILY_NAMES)[number];

export interface ModelConfig {
  readonly family: FamilyName;
  /** Name in config.json's `architectures`, kept for export. */
  readonly architecture: string;
  readonly vocabulary: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly maxPositions: number;
  /** The head is the embedding: held once, written once. */
  readonly tiedEmbeddings: boolean;
  /** Factor on the embedded tokens; the head does not have it. */
  readonly embeddingScale: number;
  /** Positions have embeddings of their own, added to those of the tokens. */
  readonly learnedPositions: boolean;
  /** c: logits become c·tanh(logit/c); null: none. */
  readonly logitSoftCap: number | null;
  /** The kind of every norm of the model, the last one included. */
  readonly norm: NormOptions;
  readonly block: BlockOptions;
  /** The distinct rotary embeddings; a layer names one of them. */
  readonly ropes: readonly RopeOptions[];
  /** What differs from layer to layer, one entry a layer. */
  readonly perLayer: readonly LayerOptions[];
  readonly bosId: number | null;
  readonly eosIds: readonly number[];
}

export interface NormOptions {
  /** "layer" subtracts the mean and has a bias. */
  readonly kind: "rms" | "layer";
  readonly eps: number;
  /** The weight is stored less 1. It is held in f32 then: 1 + w has no bf16 for small w. */
  readonly storedLessOne: boolean;
}

/** Norms of a block: of the inputs and outputs of its two sides, and of every query and key head. */
export type NormName = "attention" | "attentionOutput" | "feedForward" | "feedForwardOutput" | "query" | "key";

/** Name of a linear: its module's in the checkpoint, unique in a block (`q_proj`, `query_key_value`). */
export type LinearName = string;

/** One linear of a block. */
export interface LinearOptions {
  readonly name: LinearName;
  /** K, in-features; M, out-features. */
  readonly in: number;
  readonly out: number;
  readonly bias: boolean;
}

/** A block: attention and feed-forward, each behind a norm, around a residual stream, with these choices. */
export interface BlockOptions {
  /**
   * sequential: m = x + attention(norm(x)), y = m + feedForward(norm(m)).
   * parallel: y = x + attention(norm(x)) + feedForward(norm(x)); without a norm of its own the feed-forward shares attention's.
   */
  readonly residual: "sequential" | "parallel";
  /** The norms that there are, and their modules in a layer of the checkpoint. */
  readonly norms: Readonly<Partial<Record<NormName, string>>>;
  /** Every linear, in the order of the forward. */
  readonly linears: readonly LinearOptions[];
  readonly attention: AttentionOptions;
  readonly feedForward: FeedForwardOptions;
}

export interface AttentionOptions {
  readonly projection: QkvOptions;
  readonly output: LinearName;
  /** Factor on q·k. */
  readonly scale: number;
  /** c: scores become c·tanh(score/c); null: none. */
  readonly softCap: number | null;
}

/** Where q, k and v come from: linears of their own, or one whose columns are `groups` equal groups [q … | k … | v …]. */
export type QkvOptions =
  | { readonly kind: "separate"; readonly query: LinearName; readonly key: LinearName; readonly value: LinearName }
  | { readonly kind: "fused"; readonly linear: LinearName; readonly groups: number };

export type FeedForwardOptions =
  /** y = down(a(gate(x)) · up(x)) */
  | {
      readonly kind: "gated";
      readonly projection: GateUpOptions;
      readonly down: LinearName;
      readonly activation: Activation;
    }
  /** y = down(gelu(up(x))) */
  | { readonly kind: "plain"; readonly up: LinearName; readonly down: LinearName; readonly gelu: GeluForm };

/** Where gate and up come from: linears of their own, or one whose columns are [gate | up]. */
export type GateUpOptions =
  | { readonly kind: "separate"; readonly gate: LinearName; readonly up: LinearName }
  | { readonly kind: "fused"; readonly linear: LinearName };

export interface LayerOptions {
  /** Index into `ropes`; null: q and k are not rotated. */
  readonly rope: number | null;
  /** Keys that a query sees, itself included; null: all before it. */
  readonly window: number | null;
}

export interface RopeOptions {
  readonly theta: number;
  /** Columns of each head that are rotated, the first ones; even. */
  readonly dims: number;
  readonly scaling: RopeScaling;
}

export type RopeScaling =
  | { readonly kind: "none" }
  | { readonly kind: "linear"; readonly factor: number }
  /** The base grows with sequences longer than maxPositions (NTK-aware). */
  | { readonly kind: "dynamic"; readonly factor: number; readonly maxPositions: number }
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly kind: "yarn";
      readonly factor: number;
      /** On cos and sin. */
      readonly magnitude: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly originalMaxPositions: number;
      readonly truncate: boolean;
    }
  | {
      readonly kind: "longrope";
      /** Divisors of the frequencies, for sequences up to originalMaxPositions and for longer ones. */
      readonly short: readonly number[];
      readonly long: readonly number[];
      /** On cos and sin. */
      readonly magnitude: number;
      readonly originalMaxPositions: number;
    };

/** Columns of the norm of that name. */
export const normWidth = ({ hidden, headDim }: ModelConfig, name: NormName): number =>
  name === "query" || name === "key" ? headDim : hidden;

/** Names of a block's linears, in the order of the forward. */
export const linearNames = (config: ModelConfig): LinearName[] => config.block.linears.map(({ name }) => name);

/** In- and out-features of a linear. */
export function linearOf(config: ModelConfig, name: LinearName): LinearOptions {
  const found = config.block.linears.find((linear) => linear.name === name);
  if (!found) throw new TypeError(`a block of ${config.architecture} has no linear ${name}`);
  return found;
}
