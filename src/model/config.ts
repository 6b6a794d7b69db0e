// The configuration of a model as the rest of the code sees it, whatever file it came from: sizes, and how its blocks are
// put together. A family (families/*.ts) makes it from config.json; model/blocks reads it. Export writes the file's own
// JSON back (`Checkpoint.configJson`), so nothing that is not understood here gets lost.

/** Model families, each with a file in model/families. */
export const FAMILY_NAMES = ["llama"] as const;
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
  readonly kind: "rms";
  readonly eps: number;
}

/** Norms of a block by what they act on; q and k per head. */
export type NormName = "attention" | "feedForward";

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

/** A block: norm, attention, residual, norm, feed-forward, residual, with these choices. */
export interface BlockOptions {
  /** The norms that there are, and their modules in a layer of the checkpoint. */
  readonly norms: Readonly<Partial<Record<NormName, string>>>;
  /** Every linear, in the order of the forward. */
  readonly linears: readonly LinearOptions[];
  readonly attention: AttentionOptions;
  readonly feedForward: FeedForwardOptions;
}

export interface AttentionOptions {
  readonly query: LinearName;
  readonly key: LinearName;
  readonly value: LinearName;
  readonly output: LinearName;
  /** Factor on q·k. */
  readonly scale: number;
  /** c: scores become c·tanh(score/c); null: none. */
  readonly softCap: number | null;
}

/** y = down(silu(gate(x)) · up(x)) */
export interface FeedForwardOptions {
  readonly gate: LinearName;
  readonly up: LinearName;
  readonly down: LinearName;
}

export interface LayerOptions {
  /** Index into `ropes`. */
  readonly rope: number;
  /** Keys that a query sees, itself included; null: all before it. */
  readonly window: number | null;
}

export interface RopeOptions {
  readonly theta: number;
  readonly scaling: RopeScaling;
}

export type RopeScaling =
  | { readonly kind: "none" }
  | { readonly kind: "linear"; readonly factor: number }
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalMaxPositions: number;
    };

/** Names of a block's linears, in the order of the forward. */
export const linearNames = (config: ModelConfig): LinearName[] => config.block.linears.map(({ name }) => name);

/** In- and out-features of a linear. */
export function linearOf(config: ModelConfig, name: LinearName): LinearOptions {
  const found = config.block.linears.find((linear) => linear.name === name);
  if (!found) throw new TypeError(`a block of ${config.architecture} has no linear ${name}`);
  return found;
}
