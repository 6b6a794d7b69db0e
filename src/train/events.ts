// What a run tells the world, one JSON line each in events.jsonl and one call each to the progress display.

import type { OptimizerState } from "../adapter/moments.ts";
import type { KeepLevel } from "../model/steps.ts";

export interface RankScore {
  readonly rank: number;
  /** Mean cross-entropy per supervised token, nats. */
  readonly loss: number;
}

export type TrainEvent =
  | {
      readonly type: "start";
      readonly step: number;
      readonly steps: number;
      readonly resumed: boolean;
      readonly planBytes: number;
      readonly offloadedBytes: number;
      readonly optimizerState: OptimizerState;
      readonly layers: Readonly<Record<KeepLevel, number>>;
    }
  | {
      readonly type: "step";
      readonly step: number;
      readonly loss: number;
      readonly rank: number;
      readonly gradNorm: number;
      readonly learningRate: number;
      /** All tokens of the step, and those with a target. */
      readonly tokens: number;
      readonly supervised: number;
      readonly tokensPerSecond: number;
      readonly secondsLeft: number;
    }
  /** The step changed nothing: its loss or gradient was not finite, or it had no supervised token. */
  | {
      readonly type: "skipped";
      readonly step: number;
      readonly rank: number;
      readonly reason: "loss" | "gradient" | "unsupervised";
    }
  | { readonly type: "eval"; readonly step: number; readonly scores: readonly RankScore[]; readonly seconds: number }
  | { readonly type: "checkpoint"; readonly step: number; readonly file: string; readonly bytes: number }
  | { readonly type: "interrupted"; readonly step: number }
  | { readonly type: "end"; readonly step: number; readonly seconds: number };
