// A whole training run of the tiny model, over any folder; on the reference backend unless another one is given.

import type { AdapterConfig } from "../../src/adapter/config.ts";
import type { Backend } from "../../src/backends/backend.ts";
import { openBackend } from "../../src/backends/open.ts";
import type { Batch } from "../../src/data/batch.ts";
import type { Folder } from "../../src/formats/folder.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import type { TrainConfig } from "../../src/train/config.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { fingerprintOf } from "../../src/train/fingerprint.ts";
import { summaryOf, TrainingSession } from "../../src/train/session.ts";
import { type TrainingRun, trainAdapter } from "../../src/train/train.ts";
import { adapterConfig, randomBatch, randomWeights, TINY, tinyModel } from "../model/tiny-model.ts";

export const STEPS = 6;

export function trainConfig(adapter: Partial<AdapterConfig> = {}, overrides: Partial<TrainConfig> = {}): TrainConfig {
  return {
    adapter: adapterConfig({ rankMax: 4, ...adapter }),
    optimizer: {
      state: "adam32",
      learningRate: 1e-2,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weightDecay: 0.01,
      maxGradNorm: 0.3,
      dense: false,
      loraPlusRatio: 1,
    },
    schedule: { kind: "linear", warmupSteps: 2, steps: STEPS },
    batch: { seq: 16, microBatch: 2, accumulation: 2, packing: false },
    seed: 17,
    evalEvery: 0,
    initialAdapterSha256: null,
    checkpointEvery: 2,
    keepCheckpoints: 2,
    offloadActivations: "auto",
    memoryBytes: null,
    ...overrides,
  };
}

export const batchesOf = (step: number): Batch[] => [randomBatch([5, 9], 100 + step), randomBatch([11], 200 + step)];

interface TinyRun {
  readonly folder: Folder;
  readonly config: TrainConfig;
  readonly resume?: boolean;
  readonly allowChanged?: boolean;
  readonly dataSha256?: string;
  readonly step?: (index: number) => Batch[];
  readonly onEvent?: (event: TrainEvent, stop: AbortController) => void;
  readonly open?: () => Promise<Backend>;
  readonly computeDtype?: "f32" | "bf16";
  /** Another model than the tiny one, and the tokens of its largest batch. */
  readonly model?: ModelConfig;
  readonly tokens?: number;
}

/** Trains a tiny model; returns the final weights, row by row comparable. */
export async function trainTiny({
  folder,
  config,
  resume = false,
  allowChanged = false,
  dataSha256 = "d",
  step = batchesOf,
  onEvent,
  open = () => openBackend("reference", {}),
  computeDtype = "f32",
  model: modelConfig = TINY,
  tokens = 16,
}: TinyRun) {
  await using backend = await open();
  const model = tinyModel(backend, computeDtype, modelConfig);
  const shapes = { training: { N: tokens, S: 2, Q: 0 }, scoring: { N: tokens, S: 2, Q: 0 } };
  const session = new TrainingSession(backend, model, config, shapes);
  const { adapter, learner, scorer } = session;
  adapter.load(randomWeights(config.adapter, modelConfig));
  const before = await adapter.weights();
  const events: TrainEvent[] = [];
  const stop = new AbortController();
  const { instructionSet } = backend;
  const run: TrainingRun = {
    backend,
    adapter,
    config,
    learner,
    plan: summaryOf(session.estimate),
    scorer,
    step,
    heldOut: [randomBatch([7, 8], 1)],
    folder,
    fingerprint: fingerprintOf({ config, base: model.identity, dataSha256, instructionSet, computeDtype }),
    resume,
    allowChanged,
    signal: stop.signal,
    onEvent: (event) => {
      events.push(event);
      onEvent?.(event, stop);
    },
  };
  try {
    const result = await trainAdapter(run);
    return { result, before, after: await adapter.weights(), events };
  } finally {
    session[Symbol.dispose]();
    model.dispose();
  }
}
