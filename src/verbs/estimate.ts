// estimate: the memory of a run before anything is loaded: what the device holds, exact to the byte, and the whole process.

import type { OptimizerState } from "../adapter/moments.ts";
import type { Placement } from "../backends/backend.ts";
import { BatchPlan } from "../data/batches.ts";
import { valueBytes } from "../model/arena-plan.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import { describeCall, type Shape } from "../model/graph.ts";
import { countLevels } from "../model/memory-plan.ts";
import type { KeepLevel } from "../model/steps.ts";
import { phantomBase } from "../quant/estimate-base.ts";
import { estimateSession, type MemoryEstimate, type SessionShapes } from "../train/session.ts";
import { hostBytes, loadingBytes } from "./host-memory.ts";
import { openDevice } from "./open-device.ts";
import { type ModelFiles, type ModelSettings, openModelFiles } from "./open-model.ts";
import { throwProblems } from "./problems.ts";
import { readTrainingData } from "./read-data.ts";
import { scoringShape } from "./score.ts";
import { shapesOf } from "./train.ts";
import {
  batchConfigOf,
  type DataSettings,
  resolveTrainConfig,
  TRAIN_DEFAULTS,
  type TrainSettings,
  trainProblems,
  withDefaults,
} from "./train-options.ts";

export interface EstimateOptions extends TrainSettings, ModelSettings, Partial<DataSettings> {
  /** List every op of a step and every planned buffer. */
  readonly explain?: boolean;
}

export interface Estimate {
  readonly baseBytes: number;
  /** Weights, compute copy, gradients at rank R, and both moments unless they are paged. */
  readonly adapterBytes: number;
  /** How the moments are kept, and where. */
  readonly optimizerState: OptimizerState;
  /** Paged moments: host memory that the device reads and writes. */
  readonly pagedBytes: number;
  readonly optimizerBytes: number;
  /** The arena that training and evaluation take turns in. */
  readonly arenaBytes: number;
  /** Activations that wait in the host's memory. */
  readonly offloadedBytes: number;
  /** The device's buffers together. */
  readonly totalBytes: number;
  /** Node, tokenizer and data, measured in this process, with what a run's process grows by. */
  readonly hostBytes: number;
  /** On the way while the base is loaded, before there is an arena. */
  readonly loadingBytes: number;
  /** Largest resident memory of a run's process on the CPU: host, and the larger of the run and of loading its base. */
  readonly peakBytes: number;
  /** Layers by how much of them is computed again in the backward. */
  readonly layers: Readonly<Record<KeepLevel, number>>;
  /** Rows and segments of the largest micro-batch: of the data if given, else what the settings allow. */
  readonly largestBatch: { readonly rows: number; readonly segments: number };
  /** With `explain`: one line per op of a training step, in order. */
  readonly steps?: readonly string[];
  /** With `explain`: every planned buffer of a training step. Buffers that do not live at the same time share bytes. */
  readonly buffers?: readonly PlannedBuffer[];
}

export interface PlannedBuffer {
  readonly name: string;
  readonly memory: Placement;
  /** From the start of that memory's arena. */
  readonly offset: number;
  readonly bytes: number;
}

/** Throws CONFIG_INVALID, MEMORY_EXCEEDED (the budget cannot be met), and what opening the model's files throws. */
export async function estimate(options: EstimateOptions): Promise<Estimate> {
  throwProblems("estimate", trainProblems(options));
  await using files = await openModelFiles(options.model, options);
  await using backend = await openDevice(options);
  const { compute = "auto", baseFormat = "nf4" } = options;
  const computeDtype = compute === "auto" ? backend.computeDtype : compute;
  const model = phantomBase({ config: files.config, format: baseFormat, computeDtype });
  const shapes = await shapesFor(options, files);
  const session = estimateSession(
    backend,
    model,
    resolveTrainConfig(options, files.config, options.steps ?? 1),
    shapes,
  );
  return {
    ...bytesOf(session),
    ...wholeProcess(model, session),
    layers: countLevels(session.plan.levels),
    largestBatch: { rows: shapes.training.N, segments: shapes.training.S },
    ...explained(options, session, shapes.training),
  };
}

async function shapesFor(options: EstimateOptions, { tokenizer }: ModelFiles): Promise<SessionShapes> {
  const settings = withDefaults(options);
  const batch = batchConfigOf(options);
  if (options.data === undefined) {
    const N = batch.microBatch * batch.seq;
    return { training: { N, S: batch.packing ? N : batch.microBatch, Q: 0 }, scoring: scoringShape([]) };
  }
  const { overlong = "error", lossOn = "completion", skipBadRows = false } = options;
  const columns = options.columns ? { columns: options.columns } : {};
  const loading = { seq: settings.seq, overlong, lossOn, skipBadRows, ...columns };
  const data = await readTrainingData(
    options.data,
    options.heldOut ?? TRAIN_DEFAULTS.heldOut,
    tokenizer,
    loading,
    settings.seed,
  );
  return shapesOf(new BatchPlan(data.train, batch, settings.seed), data.heldOut);
}

function wholeProcess(
  model: FrozenModel,
  { baseBytes, pagedBytes, offloadedBytes, totalBytes }: MemoryEstimate,
): Pick<Estimate, "hostBytes" | "loadingBytes" | "peakBytes"> {
  const sizes = model.config.block.linears.map(({ in: cols, out: rows }) => rows * cols);
  const loading = loadingBytes(Math.max(...sizes));
  const host = hostBytes();
  return {
    hostBytes: host,
    loadingBytes: loading,
    peakBytes: host + Math.max(totalBytes + pagedBytes + offloadedBytes, baseBytes + loading),
  };
}

const bytesOf = ({ plan: _, ...bytes }: MemoryEstimate): Omit<MemoryEstimate, "plan"> => bytes;

function explained(
  { explain }: EstimateOptions,
  { plan }: MemoryEstimate,
  largest: Shape,
): Pick<Estimate, "steps" | "buffers"> {
  if (!explain) return {};
  const buffers = [...plan.arena.placements].map(([value, { offset }]) => ({
    name: value.name,
    memory: value.memory,
    offset,
    bytes: valueBytes(value, largest),
  }));
  return { steps: plan.list.calls.map(describeCall), buffers: buffers.sort((a, b) => a.offset - b.offset) };
}
