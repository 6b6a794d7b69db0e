// What a run holds on the device beside the base: adapter with gradients and moments, and the arena of its steps. Made
// from one description, so that the estimate and the run cannot disagree.

import type { OptimizerState } from "../adapter/moments.ts";
import { Adapter, adapterBytes, adapterLayout, readDtype } from "../adapter/parameters.ts";
import { phantomAdapter } from "../adapter/phantom-adapter.ts";
import type { Backend, Planner } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import type { Shape } from "../model/graph.ts";
import { LossProgram } from "../model/loss-program.ts";
import { countLevels, planTraining, type TrainingPlan } from "../model/memory-plan.ts";
import type { DropoutSettings } from "../model/steps.ts";
import type { DeviceBuffer } from "../tensor/tensor.ts";
import type { TrainConfig } from "./config.ts";
import type { TrainEvent } from "./events.ts";
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
  /** How the moments are kept, and where. */
  readonly optimizerState: OptimizerState;
  /** Paged moments: host memory that the device reads and writes. */
  readonly pagedBytes: number;
  /** Row counters and sums; the moments are counted with the adapter. */
  readonly optimizerBytes: number;
  /** The arena that training and evaluation take turns in. */
  readonly arenaBytes: number;
  /** Activations that wait in the host's memory. */
  readonly offloadedBytes: number;
  readonly totalBytes: number;
  readonly plan: TrainingPlan;
}

/** What a run tells of its plan. */
export type PlanSummary = Pick<
  Extract<TrainEvent, { type: "start" }>,
  "planBytes" | "offloadedBytes" | "optimizerState" | "layers"
>;

export function summaryOf({
  arenaBytes,
  offloadedBytes,
  optimizerState,
  plan,
}: Pick<MemoryEstimate, "arenaBytes" | "offloadedBytes" | "optimizerState" | "plan">): PlanSummary {
  return { planBytes: arenaBytes, offloadedBytes, optimizerState, layers: countLevels(plan.levels) };
}

/** What the estimate asks of a backend. */
type Device = Planner & Pick<Backend, "memory" | "allocatedBytes">;

/**
 * Device bytes of a run, by lifetime, before anything but the base is allocated (a phantom base will do).
 * Throws CONFIG_INVALID where activations cannot be offloaded, MEMORY_EXCEEDED if neither `config.memoryBytes` nor what the device has can hold it.
 */
export function estimateSession(
  backend: Device,
  model: FrozenModel,
  config: TrainConfig,
  shapes: SessionShapes,
): MemoryEstimate {
  if (config.offloadActivations === "always" && backend.memory().unified) throw nowhereToGo();
  const { state } = config.optimizer;
  if (state !== "auto") return estimateAt(backend, model, config, shapes, state);
  try {
    return estimateAt(backend, model, config, shapes, "adam32");
  } catch (error) {
    // Paging costs more time than recomputing the same bytes: it is the last resort, and none where memory is one.
    if (!(error instanceof QdlError && error.code === "MEMORY_EXCEEDED") || backend.memory().unified) throw error;
    return estimateAt(backend, model, config, shapes, "adam32-paged");
  }
}

function estimateAt(
  backend: Device,
  model: FrozenModel,
  config: TrainConfig,
  shapes: SessionShapes,
  state: OptimizerState,
): MemoryEstimate {
  const read = readDtype(backend, model.computeDtype, true);
  const adapter = phantomAdapter(model, config.adapter, read);
  const ofAdapter = adapterBytes(model.config, config.adapter, read, state);
  const widths = adapterLayout(model.config, config.adapter).map(({ cols }) => cols);
  const ofOptimizer = optimizerBytes(backend, config.adapter.rankMax, widths).totalBytes;
  const scoring = LossProgram.scorerPlan(backend, model, adapter, shapes.scoring).arena.bytes;
  const fixed = model.bytes + ofAdapter.device + ofOptimizer;
  const budget = budgetBytes(backend, config) - fixed;
  if (scoring > budget) throw tooSmall(scoring, budget);
  const plan = planTraining(backend, model, adapter, shapes.training, {
    budgetBytes: budget,
    offload: config.offloadActivations,
    hostBytes: Math.max(0, backend.memory().hostBytes - ofAdapter.host),
    dropout: dropoutOf(config),
  });
  const arenaBytes = Math.max(plan.arena.bytes, scoring);
  return {
    baseBytes: model.bytes,
    adapterBytes: ofAdapter.device,
    optimizerState: state,
    pagedBytes: ofAdapter.host,
    optimizerBytes: ofOptimizer,
    arenaBytes,
    offloadedBytes: plan.arena.hostBytes,
    totalBytes: fixed + arenaBytes,
    plan,
  };
}

function nowhereToGo(): QdlError {
  return new QdlError(
    "CONFIG_INVALID",
    "offloadActivations is always, expected auto or never because this backend's memory is the host's: copies would free nothing",
    { hint: "Leave --offload-activations away: where memory is short, layers are computed again." },
  );
}

/** Bytes that the base and all of a run's buffers may take together. */
function budgetBytes(backend: Device, { memoryBytes }: TrainConfig): number {
  const { availableBytes, overheadBytes } = backend.memory();
  const given = memoryBytes === null ? Number.POSITIVE_INFINITY : memoryBytes - overheadBytes;
  return Math.min(given, backend.allocatedBytes + availableBytes);
}

function tooSmall(needed: number, budget: number): QdlError {
  return new QdlError("MEMORY_EXCEEDED", `an evaluation needs ${needed} bytes, expected at most ${budget}`, {
    hint: "Lower --seq, or raise --memory.",
    details: { needed, budget },
  });
}

/** Without dropout the step takes the shared, faster path. */
function dropoutOf({ adapter, seed }: TrainConfig): DropoutSettings | null {
  return adapter.dropout > 0 ? { p: adapter.dropout, seed } : null;
}

/** Owns adapter and arena of one run. */
export class TrainingSession implements Disposable {
  readonly estimate: MemoryEstimate;
  readonly adapter: Adapter;
  readonly learner: LossProgram;
  readonly scorer: LossProgram;
  /** Learning and scoring take turns in it. */
  readonly #arena: DeviceBuffer;

  /** Throws MEMORY_EXCEEDED with the numbers, before anything is allocated where the budget tells. */
  constructor(backend: Backend, model: FrozenModel, config: TrainConfig, shapes: SessionShapes) {
    this.estimate = estimateSession(backend, model, config, shapes);
    const { plan, optimizerState, arenaBytes } = this.estimate;
    this.adapter = new Adapter(backend, model.config, config.adapter, model.computeDtype, optimizerState);
    try {
      this.#arena = backend.alloc(arenaBytes, "arena of the run");
    } catch (error) {
      this.adapter[Symbol.dispose]();
      throw error;
    }
    const [arena, dropout] = [this.#arena, dropoutOf(config)];
    try {
      this.learner = LossProgram.learner(backend, model, this.adapter, shapes.training, plan.levels, dropout, arena);
      this.scorer = LossProgram.scorer(backend, model, this.adapter, shapes.scoring, arena);
    } catch (error) {
      arena.dispose();
      this.adapter[Symbol.dispose]();
      throw error;
    }
  }

  /** After the last step and evaluation: what comes next may have the arena's memory. */
  releaseArena(): void {
    this.learner[Symbol.dispose]();
    this.scorer[Symbol.dispose]();
    this.#arena.dispose();
  }

  [Symbol.dispose](): void {
    this.releaseArena();
    this.adapter[Symbol.dispose]();
  }
}
