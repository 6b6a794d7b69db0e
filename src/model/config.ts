// The configuration of a model as the rest of the code sees it, whatever file it came from.

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

export interface ModelConfig {
  /** The block family (model/families). */
  readonly family: "llama";
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
  readonly normEps: number;
  /** The head is the embedding: held once, written once. */
  readonly tiedEmbeddings: boolean;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly bosId: number | null;
  readonly eosIds: readonly number[];
}
