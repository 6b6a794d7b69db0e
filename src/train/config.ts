// The settings of a run, resolved: every default filled in, every path out. Written beside the adapter as it is.

import type { AdapterConfig } from "../adapter/config.ts";
import type { OptimizerChoice } from "../adapter/moments.ts";
import type { OffloadChoice } from "../model/memory-plan.ts";

export interface OptimizerConfig {
  /** How the moments are kept, and where. */
  readonly state: OptimizerChoice;
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** Bound on the norm of the whole gradient over the active rows; 0: no clipping. */
  readonly maxGradNorm: number;
  /** true: all rows move and decay every step, as the DyLoRA reference code does (for parity only). */
  readonly dense: boolean;
  /** Learning rate of B divided by that of A (LoRA+, arXiv 2402.12354). */
  readonly loraPlusRatio: number;
}

export interface ScheduleConfig {
  readonly kind: "constant" | "linear" | "cosine";
  /** Optimizer steps of linear warm-up. */
  readonly warmupSteps: number;
  /** Optimizer steps of the run. */
  readonly steps: number;
}

export interface BatchConfig {
  /** Longest sample, in tokens; with packing also the rows of one packed sequence. */
  readonly seq: number;
  /** Samples of a micro-batch (packed sequences with packing). */
  readonly microBatch: number;
  /** Micro-batches of an optimizer step. */
  readonly accumulation: number;
  readonly packing: boolean;
}

export interface TrainConfig {
  readonly adapter: AdapterConfig;
  readonly optimizer: OptimizerConfig;
  readonly schedule: ScheduleConfig;
  readonly batch: BatchConfig;
  readonly seed: number;
  /** SHA-256 of the LoRA that the run starts from; null: it starts fresh. */
  readonly initialAdapterSha256: string | null;
  /** Evaluate every so many steps; 0: only at the end. */
  readonly evalEvery: number;
  /** Checkpoint every so many steps; 0: only at the end and on interruption. */
  readonly checkpointEvery: number;
  readonly keepCheckpoints: number;
  /** Whether activations may wait in the host's memory. */
  readonly offloadActivations: OffloadChoice;
  /** Bytes the arena may take; null: what the backend gives. */
  readonly memoryBytes: number | null;
}
