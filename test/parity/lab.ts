// One model of the fixtures on one backend, with an adapter: what the tests ask of it are losses, logits and gradients.

import { type AdapterConfig, scaleAt, type TrainingMode } from "../../src/adapter/config.ts";
import { Adapter } from "../../src/adapter/parameters.ts";
import type { Backend } from "../../src/backends/backend.ts";
import { type BackendName, openBackend } from "../../src/backends/open.ts";
import type { Batch } from "../../src/data/batch.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import type { Shape } from "../../src/model/graph.ts";
import { LossProgram, uniformRange } from "../../src/model/loss-program.ts";
import { planTraining } from "../../src/model/memory-plan.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { loadBase } from "../../src/quant/load-base.ts";
import { Engine } from "../../src/serve/engine.ts";
import { adapterConfig, adapterWeights, type FixtureSequence, type ParityCase } from "./fixture.ts";

/** Where a parity test runs, and how near it has to come. */
export interface Setting {
  readonly backend: BackendName;
  readonly dtype: "bf16" | "f32";
  /** Bound on ‖error‖/‖expected‖ of losses, logits and gradients, of whole tensors and of their worst rows. */
  readonly limit: number;
  readonly reason: string;
  /** The same bound between two ways to cut one optimizer step into micro-batches. */
  readonly splitLimit: number;
  /** Bound on |loss/expected − 1| of each of ten steps. */
  readonly curveLimit: number;
  /** Bound on ‖error‖/‖expected‖ of A and B after ten steps. */
  readonly weightLimit: number;
}

export const SETTINGS: readonly Setting[] = [
  {
    backend: "reference",
    dtype: "f32",
    limit: 1e-5,
    reason: "double arithmetic, values rounded to f32 between ops",
    splitLimit: 1e-6,
    curveLimit: 1e-5,
    weightLimit: 1e-4,
  },
  {
    backend: "cpu",
    dtype: "f32",
    limit: 1e-4,
    reason: "f32 sums in any order",
    splitLimit: 1e-5,
    curveLimit: 1e-5,
    weightLimit: 1e-4,
  },
  {
    backend: "cpu",
    dtype: "bf16",
    limit: 2e-2,
    reason: "values rounded to bf16 (2⁻⁹) between ops, some thirty times on the way to a gradient",
    splitLimit: 1e-2,
    curveLimit: 1e-3,
    weightLimit: 5e-2,
  },
];

/** A model folder, and how to hold it. */
export type BaseChoice = Pick<ParityCase, "modelPath" | "baseFormat" | "doubleQuant">;

export interface StepResult {
  /** Σ cross-entropy / supervised tokens, over all micro-batches. */
  readonly loss: number;
  /** Cross-entropy of every row, micro-batch after micro-batch. */
  readonly losses: Float32Array;
  /** By tensor name: rows 0..b−1 of each gradient. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
  /** Largest magnitude in rows ≥ b of all gradients. */
  readonly outside: number;
}

export class Lab implements AsyncDisposable {
  readonly backend: Backend;
  readonly model: FrozenModel;
  readonly adapter: Adapter;

  private constructor(backend: Backend, model: FrozenModel, adapter: Adapter) {
    this.backend = backend;
    this.model = model;
    this.adapter = adapter;
  }

  /** A fixture's model with its adapter. */
  static open(fixture: ParityCase, setting: Setting, mode: TrainingMode = "dylora"): Promise<Lab> {
    return Lab.over(fixture, adapterConfig(fixture, mode), adapterWeights(fixture), setting);
  }

  static async over(
    base: BaseChoice,
    config: AdapterConfig,
    weights: ReadonlyMap<string, Float32Array>,
    setting: Setting,
  ): Promise<Lab> {
    const backend = await openBackend(setting.backend, { threads: 2 });
    const model = await loadModel(backend, base, setting.dtype);
    const adapter = new Adapter(backend, model.config, config, setting.dtype, "adam32");
    adapter.load(weights);
    return new Lab(backend, model, adapter);
  }

  /** Loss and gradients of one optimizer step, as the training loop takes them. */
  async step(batches: readonly Batch[], rank: number): Promise<StepResult> {
    const { backend, model, adapter } = this;
    const shape = largestShape(batches);
    const plan = planTraining(backend, model, adapter, shape, { budgetBytes: null });
    using learner = new LossProgram(backend, model, plan.list, plan.arena, shape, "parity arena");
    backend.run("fill", { y: adapter.gradients!, value: 0 });
    const supervised = batches.reduce((sum, batch) => sum + batch.supervised, 0);
    const losses: number[] = [];
    for (const batch of batches) {
      const ranks = uniformRange(batch, rank, scaleAt(adapter.config, rank));
      losses.push(...(await learner.run(batch, ranks, 1 / supervised)));
    }
    const gradients = new Map<string, Float32Array>();
    let outside = 0;
    for (const { name, cols, training } of adapter.tensors) {
      const all = await adapter.download(training!.gradient);
      gradients.set(name, all.subarray(0, rank * cols));
      for (const value of all.subarray(rank * cols)) outside = Math.max(outside, Math.abs(value));
    }
    const loss = losses.reduce((sum, value) => sum + value, 0) / supervised;
    return { loss, losses: Float32Array.from(losses), gradients, outside };
  }

  /**
   * Logits that follow every token of every sequence, sequence after sequence, `piece` tokens of each sequence a pass.
   * Only the last token of a pass gives logits, so rows come back for piece = 1, and the last row of each sequence for a
   * piece as long as the sequences.
   */
  async logits(
    sequences: readonly { readonly tokens: readonly number[] }[],
    rank: number,
    piece: number,
  ): Promise<Float32Array> {
    const { backend, model, adapter } = this;
    const maxLength = Math.max(...sequences.map(({ tokens }) => tokens.length));
    const maxRows = sequences.length * piece;
    using engine = new Engine({ backend, model, adapter, sequences: sequences.length, maxLength, maxRows });
    const rows: number[][] = sequences.map(() => []);
    for (let from = 0; from < maxLength; from += piece) {
      const pass = sequences
        .map(({ tokens }, sequence) => ({ sequence, rank, tokens: Int32Array.from(tokens.slice(from, from + piece)) }))
        .filter(({ tokens }) => tokens.length > 0);
      const results = await engine.extend(pass);
      for (const [i, { sequence }] of pass.entries()) rows[sequence]!.push(...results[i]!);
    }
    return Float32Array.from(rows.flat());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.adapter[Symbol.dispose]();
    this.model.dispose();
    await this.backend[Symbol.asyncDispose]();
  }
}

/** A model folder through our own loader and quantiser. */
async function loadModel(backend: Backend, base: BaseChoice, computeDtype: "bf16" | "f32"): Promise<FrozenModel> {
  const checkpoint = await openCheckpoint(await openFolder(base.modelPath));
  try {
    return await loadBase({
      checkpoint,
      config: parseModelConfig(checkpoint.configJson),
      backend,
      format: base.baseFormat,
      doubleQuant: base.doubleQuant,
      computeDtype,
      identity: { name: "parity", revision: null, sha256: "0".repeat(64), templateSha256: null },
    });
  } finally {
    await checkpoint.close();
  }
}

export function largestShape(batches: readonly Batch[]): Shape {
  return {
    N: Math.max(...batches.map((batch) => batch.tokens.length)),
    S: Math.max(...batches.map((batch) => batch.sampleIds.length)),
    Q: 0,
  };
}

/** Sequences laid end to end in one micro-batch, with the fixture's own targets. */
export function packed(sequences: readonly Pick<FixtureSequence, "tokens" | "targets">[]): Batch {
  const starts = [0];
  for (const { tokens } of sequences) starts.push(starts.at(-1)! + tokens.length);
  const targets = Int32Array.from(sequences.flatMap((sequence) => sequence.targets));
  return {
    tokens: Int32Array.from(sequences.flatMap((sequence) => sequence.tokens)),
    targets,
    positions: Int32Array.from(sequences.flatMap(({ tokens }) => tokens.map((_, position) => position))),
    starts: Int32Array.from(starts),
    sampleIds: sequences.map((_, index) => index),
    supervised: targets.reduce((count, target) => count + (target >= 0 ? 1 : 0), 0),
  };
}
