// What is written beside an adapter so that anyone can tell what it is, how good it is at each rank, and what it fits.

import type { BaseIdentity } from "../model/frozen-model.ts";
import type { TrainConfig } from "../train/config.ts";
import type { AdapterConfig } from "./config.ts";

export interface AdapterScore {
  readonly rank: number;
  /** Held-out mean cross-entropy per supervised token, nats. */
  readonly loss: number;
  /** A task metric, where one was measured. */
  readonly metric?: number;
}

/** qdylora.json */
export interface AdapterManifest {
  readonly format: "qdylora-adapter/1";
  readonly adapter: AdapterConfig;
  readonly base: BaseIdentity;
  /** Scores at the evaluated ranks; rank 0 is the base alone. */
  readonly scores: readonly AdapterScore[];
  readonly metricName?: string;
  /** Of an adapter made by `compress`: ‖ΔW − ΔW at that rank‖ / ‖ΔW‖ over all linears together. */
  readonly updateErrors?: readonly { readonly rank: number; readonly relative: number }[];
  readonly provenance: {
    readonly qdylora: string;
    readonly node: string;
    readonly device: string;
    readonly instructionSet: string;
    readonly seed: number;
    readonly steps: number;
    /** null for an adapter that was not trained here. */
    readonly dataSha256: string | null;
    /** The LoRA of which `compress` made the adapter. */
    readonly madeFrom?: { readonly name: string; readonly sha256: string };
    /** The run's resolved settings, or null for an imported adapter. */
    readonly train: TrainConfig | null;
  };
}
