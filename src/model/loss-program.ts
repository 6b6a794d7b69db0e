// A loss list with its memory, fed with micro-batches. Serves training (gradients accumulate in the adapter) and scoring.

import type { Backend, Planner } from "../backends/backend.ts";
import type { Batch } from "../data/batch.ts";
import type { RankRange } from "../ops/rank-range.ts";
import type { DeviceBuffer } from "../tensor/tensor.ts";
import type { AdapterParameters } from "./adapter-parameters.ts";
import type { ArenaPlan } from "./arena-plan.ts";
import { RANGES, STEP } from "./blocks/linear-group.ts";
import type { RopeOptions } from "./config.ts";
import type { FrozenModel } from "./frozen-model.ts";
import type { Shape } from "./graph.ts";
import { largestRuntime, pinnedValues, planAt } from "./memory-plan.ts";
import { Program, planProgram, type RuntimeValues } from "./program.ts";
import { ropeFrequencies } from "./rope-frequencies.ts";
import { type DropoutSettings, type KeepLevel, type LossList, scoringList } from "./steps.ts";

export class LossProgram implements Disposable {
  readonly #backend: Backend;
  readonly #largest: Shape;
  readonly #list: LossList;
  readonly #program: Program;
  /** One table per kind of rotation. */
  readonly #ropes: readonly RopeOptions[];

  /** @param memory an arena's label: it is allocated and may throw MEMORY_EXCEEDED; or one that others use at other times */
  constructor(
    backend: Backend,
    model: FrozenModel,
    list: LossList,
    arena: ArenaPlan,
    shape: Shape,
    memory: string | DeviceBuffer,
  ) {
    this.#backend = backend;
    this.#largest = shape;
    this.#list = list;
    this.#program = new Program(backend, list.calls, arena, shape, memory);
    this.#ropes = model.config.ropes;
  }

  /** A program that learns: gradients accumulate in `adapter`. */
  static learner(
    backend: Backend,
    model: FrozenModel,
    adapter: AdapterParameters,
    shape: Shape,
    levels: readonly KeepLevel[],
    dropout: DropoutSettings | null = null,
    memory: string | DeviceBuffer = "training arena",
  ): LossProgram {
    const { list, arena } = planAt(backend, model, adapter, shape, levels, dropout);
    return new LossProgram(backend, model, list, arena, shape, memory);
  }

  /** A program that only scores. */
  static scorer(
    backend: Backend,
    model: FrozenModel,
    adapter: AdapterParameters,
    shape: Shape,
    memory: string | DeviceBuffer = "scoring arena",
  ): LossProgram {
    const { list, arena } = LossProgram.scorerPlan(backend, model, adapter, shape);
    return new LossProgram(backend, model, list, arena, shape, memory);
  }

  /** List and memory of a program that only scores. */
  static scorerPlan(
    backend: Planner,
    model: FrozenModel,
    adapter: AdapterParameters,
    shape: Shape,
  ): { list: LossList; arena: ArenaPlan } {
    const list = scoringList(model, adapter);
    const pinned = pinnedValues(list.inputs, list.loss);
    return { list, arena: planProgram(backend, list.calls, pinned, shape, largestRuntime(adapter, shape)) };
  }

  /** Bytes of the arena. */
  get bytes(): number {
    return this.#program.arenaBytes;
  }

  /**
   * Runs one micro-batch. Everything is enqueued when this returns; the promise waits for the device.
   * @param ranks rank and scale by rows; rows outside all ranges run on the base alone
   * @param tokenWeight factor of each supervised token's loss in the gradient
   * @param step optimizer step, for the masks of dropout
   * @returns cross-entropy of each row in nats, 0 where nothing is predicted
   */
  async run(batch: Batch, ranks: readonly RankRange[], tokenWeight: number, step = 0): Promise<Float32Array> {
    const { inputs, loss } = this.#list;
    const rows = batch.tokens.length;
    const shape = this.#shapeOf(batch);
    const padding = shape.N - rows;
    // Where frequencies depend on the length of sequences, the longest of a micro-batch decides, as in transformers.
    const longest = 1 + batch.positions.reduce((a, b) => Math.max(a, b), 0);
    for (const [i, rope] of this.#ropes.entries())
      this.#program.write(inputs.frequencies[i]!, ropeFrequencies(rope, longest));
    this.#program.write(inputs.tokens, padded(batch.tokens, padding, 0));
    this.#program.write(inputs.positions, padded(batch.positions, padding, 0));
    this.#program.write(inputs.starts, batch.starts);
    this.#program.write(inputs.targets, padded(batch.targets, padding, -1));
    this.#program.write(inputs.tokenWeights, new Float32Array(shape.N).fill(tokenWeight));
    if (inputs.rows) this.#program.write(inputs.rows, rowIdentities(batch, shape.N));
    this.#program.run(shape, this.#runtime(batch, ranks, step));
    const { buffer, offset } = this.#program.tensor(loss, shape);
    const bytes = await this.#backend.read(buffer, offset, rows * 4);
    return new Float32Array(bytes.buffer, bytes.byteOffset, rows);
  }

  /** Makes ready what `run` will run, while the device is at something else. */
  prepare(batch: Batch, ranks: readonly RankRange[], step = 0): void {
    this.#program.prepare(this.#shapeOf(batch), this.#runtime(batch, ranks, step));
  }

  /** Row counts of a micro-batch, padding included as far as there is room for it. */
  #shapeOf({ tokens, starts }: Batch): Shape {
    const granule = this.#backend.rowGranule ?? 1;
    const whole = granule * Math.ceil(tokens.length / granule);
    return { N: Math.max(tokens.length, Math.min(this.#largest.N, whole)), S: starts.length - 1, Q: 0 };
  }

  #runtime(batch: Batch, ranks: readonly RankRange[], step: number): RuntimeValues {
    const rows = batch.tokens.length;
    const { N } = this.#shapeOf(batch);
    // Padding belongs to the last rows' range: a range of its own would be a product of its own.
    const ranges = ranks.map((range) => (range.to === rows ? { ...range, to: N } : range));
    // Only dropout reads the step; without it every step of a shape and rank is the same list.
    return { [RANGES.key]: ranges, ...(this.#list.inputs.rows && { [STEP.key]: step }) };
  }

  [Symbol.dispose](): void {
    this.#program[Symbol.dispose]();
  }
}

function padded(values: Int32Array, padding: number, value: number): Int32Array {
  if (padding === 0) return values;
  const all = new Int32Array(values.length + padding).fill(value, values.length);
  all.set(values);
  return all;
}

/** Sample and position of each row; tail padding is sample 0. */
function rowIdentities({ positions, starts, sampleIds }: Batch, rows: number): Int32Array {
  const identities = new Int32Array(2 * rows);
  for (const [segment, sample] of sampleIds.entries())
    for (let row = starts[segment]!; row < starts[segment + 1]!; row++) identities[2 * row] = sample;
  for (const [row, position] of positions.entries()) identities[2 * row + 1] = position;
  return identities;
}

/** Every row of a batch at one rank. */
export function uniformRange(batch: Batch, rank: number, scale: number): RankRange[] {
  return [{ from: 0, to: batch.tokens.length, rank, scale }];
}
