// What a run holds on the device beside the base: adapter with gradients and moments, the training arena and the scoring
// arena. Made from one description, so that the estimate and the run cannot disagree.

import { Adapter, adapterBytes, adapterLayout } from "../adapter/parameters.ts";
import { phantomAdapter } from "../adapter/phantom-adapter.ts";
import type { Backend, Planner } from "../backends/backend.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import type { Shape } from "../model/graph.ts";
import { LossProgram } from "../model/loss-program.ts";
import { planTraining, type TrainingPlan } from "../model/memory-plan.ts";
import type { DropoutSettings } from "../model/steps.ts";
import type { TrainConfig } from "./config.ts";
import { optimizerBytes } from "./optimizer.ts";

export interface SessionShapes {
  /** Rows and segments of the largest training micro-batch. */
  readonly training: Shape;
  /** Of the largest held-out batch. */
  readonly scoring: Shape;
}

export interface MemoryEstimate {
  readonly baseBytes: number;
  /** Weights, compute copy, gradients, and both moments unless they are paged. */
  readonly adapterBytes: number;
  /** Paged moments: host memory that the device reads and writes. */
  readonly pagedBytes: number;
  /** Row counters and sums; the moments are counted with the adapter. */
  readonly optimizerBytes: number;
  readonly trainingArenaBytes: number;
  readonly scoringArenaBytes: number;
  readonly totalBytes: number;
  readonly plan: TrainingPlan;
}

/**
 * Device bytes of a run, by lifetime, before anything but the base is allocated (a phantom base will do).
 * Throws MEMORY_EXCEEDED if `config.memoryBytes` cannot be met.
 */
export function estimateSession(
  backend: Planner,
  model: FrozenModel,
  config: TrainConfig,
  shapes: SessionShapes,
): MemoryEstimate {
  const adapter = phantomAdapter(model, config.adapter);
  const ofAdapter = adapterBytes(model.config, config.adapter, model.computeDtype, config.optimizer.state);
  const widths = adapterLayout(model.config, config.adapter).map(({ cols }) => cols);
  const ofOptimizer = optimizerBytes(backend, config.adapter.rankMax, widths).totalBytes;
  const scoringArenaBytes = LossProgram.scorerPlan(backend, model, adapter, shapes.scoring).arena.bytes;
  const fixed = model.bytes + ofAdapter.device + ofOptimizer + scoringArenaBytes;
  const budget = config.memoryBytes === null ? null : config.memoryBytes - fixed;
  const plan = planTraining(backend, model, adapter, shapes.training, budget, dropoutOf(config));
  return {
    baseBytes: model.bytes,
    adapterBytes: ofAdapter.device,
    pagedBytes: ofAdapter.host,
    optimizerBytes: ofOptimizer,
    trainingArenaBytes: plan.arena.bytes,
    scoringArenaBytes,
    totalBytes: fixed + plan.arena.bytes,
    plan,
  };
}

/** Without dropout the step takes the shared, faster path. */
function dropoutOf({ adapter, seed }: TrainConfig): DropoutSettings | null {
  return adapter.dropout > 0 ? { p: adapter.dropout, seed } : null;
}

/** Owns adapter and arenas of one run. */
export class TrainingSession implements Disposable {
  readonly estimate: MemoryEstimate;
  readonly adapter: Adapter;
  readonly learner: LossProgram;
  readonly scorer: LossProgram;

  /** Throws MEMORY_EXCEEDED with the numbers, before anything is allocated where the budget tells. */
  constructor(backend: Backend, model: FrozenModel, config: TrainConfig, shapes: SessionShapes) {
    this.estimate = estimateSession(backend, model, config, shapes);
    const held: Disposable[] = [];
    const hold = <T extends Disposable>(thing: T): T => {
      held.push(thing);
      return thing;
    };
    try {
      this.adapter = hold(
        new Adapter(backend, model.config, config.adapter, model.computeDtype, config.optimizer.state),
      );
      const levels = this.estimate.plan.levels;
      this.learner = hold(
        LossProgram.learner(backend, model, this.adapter, shapes.training, levels, dropoutOf(config)),
      );
      this.scorer = hold(LossProgram.scorer(backend, model, this.adapter, shapes.scoring));
    } catch (error) {
      for (const thing of held) thing[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const thing of [this.scorer, this.learner, this.adapter]) thing[Symbol.dispose]();
  }
}
