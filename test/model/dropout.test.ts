import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Adapter } from "../../src/adapter/parameters.ts";
import type { Backend } from "../../src/backends/backend.ts";
import { openBackend } from "../../src/backends/open.ts";
import type { Batch } from "../../src/data/batch.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import type { KeepLevel } from "../../src/model/steps.ts";
import { randomStream } from "../../src/random/philox.ts";
import { learn as learnStep } from "./learn.ts";
import { adapterConfig, randomAdapter, randomBatch, tinyModel } from "./tiny-model.ts";

const WHOLE = randomBatch([13, 4, 7]);
const keep: KeepLevel[] = ["keep", "keep"];

/** The segments from..to−1 of a batch as a batch of their own. */
function part(batch: Batch, from: number, to: number): Batch {
  const [first, last] = [batch.starts[from]!, batch.starts[to]!];
  const targets = batch.targets.slice(first, last);
  return {
    tokens: batch.tokens.slice(first, last),
    targets,
    positions: batch.positions.slice(first, last),
    starts: batch.starts.slice(from, to + 1).map((start) => start - first),
    sampleIds: batch.sampleIds.slice(from, to),
    supervised: targets.filter((target) => target >= 0).length,
  };
}

describe.each(["reference", "cpu"] as const)("dropout on %s", (name) => {
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

  interface Options {
    readonly p?: number;
    readonly step?: number;
    readonly levels?: KeepLevel[];
    readonly batches?: readonly Batch[];
  }

  /** A step at rank 4. */
  const learn = ({ p = 0.3, step = 5, levels = keep, batches = [WHOLE] }: Options = {}) =>
    learnStep({
      ...{ backend, model, adapter, levels, batches, rank: 4, index: step },
      dropout: p > 0 ? { p, seed: 9 } : null,
    });

  function distance(a: Map<string, Float32Array>, b: Map<string, Float32Array>): number {
    let [difference, norm] = [0, 0];
    for (const [key, values] of a)
      values.forEach((value, i) => {
        difference += (value - b.get(key)![i]!) ** 2;
        norm += value ** 2;
      });
    return Math.sqrt(difference / norm);
  }

  test("gradients agree with a directional difference of the loss under the same masks", async () => {
    const { gradients } = await learn();
    const weights = await adapter.weights();
    const direction = (key: string, i: number) => randomStream(11, key).normal(i);
    let slope = 0;
    for (const [key, values] of gradients) for (const [i, g] of values.entries()) slope += g * direction(key, i);
    const lossAt = async (h: number) => {
      adapter.load(
        new Map([...weights].map(([key, values]) => [key, values.map((v, i) => v + h * direction(key, i))])),
      );
      return (await learn()).loss;
    };
    const h = 2e-3;
    const numeric = ((await lossAt(h)) - (await lossAt(-h))) / (2 * h);
    expect(Math.abs(slope)).toBeGreaterThan(1e-3);
    expect(Math.abs(numeric - slope)).toBeLessThan(5e-3 * Math.abs(slope) + 1e-4);
  });

  test("the masks do not depend on the split into micro-batches or on what is recomputed, but on the step", async () => {
    const whole = await learn();
    const split = await learn({ batches: [part(WHOLE, 0, 1), part(WHOLE, 1, 3)] });
    expect(distance(whole.gradients, split.gradients)).toBeLessThan(1e-6);
    const again = await learn({ levels: ["recompute-layer", "recompute-cheap"] });
    expect(again.gradients).toEqual(whole.gradients);
    expect(distance(whole.gradients, (await learn({ step: 6 })).gradients)).toBeGreaterThan(0.1);
  });

  test("a probability near 0 comes near no dropout, through the other path", async () => {
    const without = await learn({ p: 0 });
    const rare = await learn({ p: 1e-12 });
    expect(rare.loss).toBeCloseTo(without.loss, 5);
    expect(distance(without.gradients, rare.gradients)).toBeLessThan(1e-5);
    expect(distance(without.gradients, (await learn({ p: 0.3 })).gradients)).toBeGreaterThan(0.05);
  });
});
