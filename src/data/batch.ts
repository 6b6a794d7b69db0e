// What the model eats: samples laid end to end in rows of tokens, without padding between them.

/** One tokenised sample. A token is a target only where `supervised` is 1; the first token never is. */
export interface Sample {
  /** Index in the order of the data files. */
  readonly id: number;
  /** Where it came from, for messages: file and line. */
  readonly file: string;
  readonly line: number;
  readonly tokens: Int32Array;
  /** 1 where the loss looks at the token (as the target of the one before it). */
  readonly supervised: Uint8Array;
}

/** A micro-batch of N rows. Row n predicts targets[n]. */
export interface Batch {
  /** [N] */
  readonly tokens: Int32Array;
  /** [N]: the next token of the same sample if it is supervised, else −1. The last token of a sample predicts nothing. */
  readonly targets: Int32Array;
  /** [N]: restart at 0 in each segment. */
  readonly positions: Int32Array;
  /** [S+1]: first row of each segment, then the end. */
  readonly starts: Int32Array;
  /** Sample id of each segment. */
  readonly sampleIds: readonly number[];
  /** Rows with a target. */
  readonly supervised: number;
}

/** How samples become micro-batches. */
export interface BatchConfig {
  /** Longest sample, in tokens; with packing also the rows of one packed sequence. */
  readonly seq: number;
  /** Samples of a micro-batch (packed sequences with packing). */
  readonly microBatch: number;
  /** Micro-batches of an optimizer step. */
  readonly accumulation: number;
  readonly packing: boolean;
}
