// One optimizer step's loss and gradients, for tests that compare ways to compute them.

import { scaleAt } from "../../src/adapter/config.ts";
import type { Adapter } from "../../src/adapter/parameters.ts";
import type { Backend } from "../../src/backends/backend.ts";
import type { Batch } from "../../src/data/batch.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import { LossProgram, uniformRange } from "../../src/model/loss-program.ts";
import type { DropoutSettings, KeepLevel } from "../../src/model/steps.ts";

export interface Step {
  readonly backend: Backend;
  readonly model: FrozenModel;
  readonly adapter: Adapter;
  readonly levels: readonly KeepLevel[];
  readonly rank: number;
  /** The micro-batches. */
  readonly batches: readonly Batch[];
  readonly dropout?: DropoutSettings | null;
  /** What the masks of dropout depend on. */
  readonly index?: number;
  /** How often the step is computed; the last time counts. */
  readonly repeats?: number;
}

export interface Learned {
  /** Per supervised token. */
  readonly loss: number;
  readonly gradients: Map<string, Float32Array>;
  /** Of the arena. */
  readonly bytes: number;
}

const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0);

export async function learn(step: Step): Promise<Learned> {
  const { backend, model, adapter, levels, rank, batches, dropout = null, index = 0, repeats = 1 } = step;
  const shape = { N: Math.max(...batches.map(({ tokens }) => tokens.length)), S: 3, Q: 0 };
  const supervised = sum(batches.map((batch) => batch.supervised));
  using program = LossProgram.learner(backend, model, adapter, shape, levels, dropout);
  let loss = 0;
  for (let time = 0; time < repeats; time++) {
    backend.run("fill", { y: adapter.gradients!, value: 0 });
    loss = 0;
    for (const batch of batches) {
      const ranges = uniformRange(batch, rank, scaleAt(adapter.config, rank));
      loss += sum(await program.run(batch, ranges, 1 / supervised, index)) / supervised;
    }
  }
  const gradients = new Map<string, Float32Array>();
  for (const tensor of adapter.tensors) gradients.set(tensor.name, await adapter.download(tensor.training!.gradient));
  return { loss, gradients, bytes: program.bytes };
}
