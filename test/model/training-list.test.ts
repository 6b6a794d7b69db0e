import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { scaleAt } from "../../src/adapter/config.ts";
import type { Adapter } from "../../src/adapter/parameters.ts";
import type { Backend } from "../../src/backends/backend.ts";
import { openBackend } from "../../src/backends/open.ts";
import type { Batch } from "../../src/data/batch.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import { LossProgram, uniformRange } from "../../src/model/loss-program.ts";
import { planAt, planTraining } from "../../src/model/memory-plan.ts";
import type { KeepLevel } from "../../src/model/steps.ts";
import type { RankRange } from "../../src/ops/rank-range.ts";
import { randomStream } from "../../src/random/philox.ts";
import { learn } from "./learn.ts";
import { adapterConfig, randomAdapter, randomBatch, tinyModel } from "./tiny-model.ts";

const BATCH = randomBatch([13, 1, 7]);
const SHAPE = { N: BATCH.tokens.length, S: 3, Q: 0 };

/** ‖a − b‖ / ‖b‖ */
function relative(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference / norm);
}

const keepAll: KeepLevel[] = ["keep", "keep"];

describe.each(["reference", "cpu"] as const)("training list on %s", (name) => {
  let backend: Backend;
  let model: FrozenModel;
  let adapter: Adapter;

  beforeEach(async () => {
    backend = await openBackend(name, {});
    model = tinyModel(backend, "f32");
    adapter = randomAdapter(backend, model, adapterConfig());
  });
  afterEach(async () => {
    adapter[Symbol.dispose]();
    model.dispose();
    await backend[Symbol.asyncDispose]();
  });

  const learnAt = (levels: readonly KeepLevel[], rank: number) =>
    learn({ backend, model, adapter, levels, rank, batches: [BATCH] });

  test.each([1, 3, 8])("gradients at rank %i agree with a directional difference of the loss", async (rank) => {
    const { gradients } = await learnAt(keepAll, rank);
    const weights = await adapter.weights();
    const direction = new Map(
      [...weights].map(([key, values]) => {
        const stream = randomStream(11, key);
        return [key, Float32Array.from(values, (_, i) => stream.normal(i))];
      }),
    );
    const slope = [...direction].reduce(
      (sum, [key, d]) => sum + d.reduce((s, v, i) => s + v * gradients.get(key)![i]!, 0),
      0,
    );
    const lossAt = async (h: number): Promise<number> => {
      adapter.load(
        new Map([...weights].map(([key, values]) => [key, values.map((v, i) => v + h * direction.get(key)![i]!)])),
      );
      return (await learnAt(keepAll, rank)).loss;
    };
    const h = 2e-3;
    const numeric = ((await lossAt(h)) - (await lossAt(-h))) / (2 * h);
    expect(Math.abs(numeric - slope)).toBeLessThan(5e-3 * Math.abs(slope) + 1e-4);
    expect(Math.abs(slope)).toBeGreaterThan(1e-3);
  });

  test("rows at or above the rank get exactly no gradient, rows below do", async () => {
    const { gradients } = await learnAt(keepAll, 3);
    for (const { name: key, cols } of adapter.tensors) {
      const gradient = gradients.get(key)!;
      expect(
        gradient.slice(3 * cols).every((g) => g === 0),
        key,
      ).toBe(true);
      for (let row = 0; row < 3; row++)
        expect(
          gradient.slice(row * cols, (row + 1) * cols).some((g) => g !== 0),
          `${key} row ${row}`,
        ).toBe(true);
    }
  });

  test("keeping, recomputing and mixing give the same bits, in less memory", async () => {
    const all = await learnAt(keepAll, 8);
    for (const levels of [
      ["recompute-cheap", "recompute-cheap"],
      ["recompute-layer", "recompute-layer"],
      ["recompute-layer", "keep"],
      ["keep", "recompute-cheap"],
    ] as KeepLevel[][]) {
      const other = await learnAt(levels, 8);
      expect(other.loss).toBe(all.loss);
      for (const [key, gradient] of all.gradients)
        expect(other.gradients.get(key), `${levels} ${key}`).toEqual(gradient);
      expect(other.bytes).toBeLessThan(all.bytes);
    }
  });

  test("rank 0 is the base alone: no gradient, and the loss of a scorer without adapter", async () => {
    const { loss, gradients } = await learnAt(keepAll, 0);
    for (const gradient of gradients.values()) expect(gradient.every((g) => g === 0)).toBe(true);
    using scorer = LossProgram.scorer(backend, model, adapter, SHAPE);
    const losses = await scorer.run(BATCH, [], 0);
    expect(losses.reduce((a, b) => a + b, 0) / BATCH.supervised).toBeCloseTo(loss, 5);
  });

  test("a rank per segment gives what the segments give alone at their ranks, and equal ranks what one rank gives", async () => {
    const perSegment = (ranks: readonly number[]): RankRange[] =>
      ranks.map((rank, i) => ({
        from: BATCH.starts[i]!,
        to: BATCH.starts[i + 1]!,
        rank,
        scale: scaleAt(adapter.config, rank),
      }));
    const gradientsAt = async (ranges: readonly RankRange[], batch: Batch = BATCH) => {
      using program = LossProgram.learner(backend, model, adapter, SHAPE, keepAll);
      backend.run("fill", { y: adapter.gradients!, value: 0 });
      const losses = await program.run(batch, ranges, 1 / BATCH.supervised);
      const all = await adapter.download(adapter.gradients!);
      return { losses, all };
    };
    /** The batch in which only one segment is supervised. */
    const only = (segment: number): Batch => {
      const inside = (row: number) => row >= BATCH.starts[segment]! && row < BATCH.starts[segment + 1]!;
      return { ...BATCH, targets: BATCH.targets.map((target, row) => (inside(row) ? target : -1)) };
    };
    const ranks = [8, 0, 3];
    const mixed = await gradientsAt(perSegment(ranks));
    const sum = new Float64Array(mixed.all.length);
    for (const [segment, rank] of ranks.entries()) {
      const alone = await gradientsAt(uniformRange(BATCH, rank, scaleAt(adapter.config, rank)), only(segment));
      for (const [i, value] of alone.all.entries()) sum[i]! += value;
      for (let row = BATCH.starts[segment]!; row < BATCH.starts[segment + 1]!; row++)
        expect(mixed.losses[row]!).toBeCloseTo(alone.losses[row]!, 5);
    }
    expect(relative(mixed.all, sum)).toBeLessThan(1e-5);
    const equal = await gradientsAt(perSegment([4, 4, 4]));
    const uniform = await gradientsAt(uniformRange(BATCH, 4, scaleAt(adapter.config, 4)));
    expect(relative(equal.all, uniform.all)).toBeLessThan(1e-6);
  });

  test("a step after something it reads was released is refused, on a shape that was run before too", async () => {
    const other = tinyModel(backend, "f32");
    using program = LossProgram.learner(backend, other, adapter, SHAPE, keepAll);
    const run = () => program.run(BATCH, uniformRange(BATCH, 1, 1), 1);
    await run();
    other.dispose();
    await expect(run()).rejects.toMatchObject({ code: "TENSOR_STALE", message: expect.stringContaining("released") });
  });

  test("the plan obeys a budget and refuses an impossible one with the numbers", () => {
    const most = planTraining(backend, model, adapter, SHAPE, { budgetBytes: null });
    const least = planAt(backend, model, adapter, SHAPE, ["recompute-layer", "recompute-layer"]);
    const middle = Math.floor((most.arena.bytes + least.arena.bytes) / 2);
    const planned = planTraining(backend, model, adapter, SHAPE, { budgetBytes: middle });
    expect(planned.arena.bytes).toBeLessThanOrEqual(middle);
    expect(planned.levels).not.toEqual(["recompute-layer", "recompute-layer"]);
    expect(() => planTraining(backend, model, adapter, SHAPE, { budgetBytes: 1000 })).toThrowError(
      expect.objectContaining({ code: "MEMORY_EXCEEDED" }),
    );
  });
});
