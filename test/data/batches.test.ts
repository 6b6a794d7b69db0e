import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Batch, BatchConfig, Sample } from "../../src/data/batch.ts";
import { BatchPlan, evalBatches, maxRows } from "../../src/data/batches.ts";
import { layOut, targetsOf } from "../../src/data/layout.ts";
import { pack } from "../../src/data/packing.ts";

fc.configureGlobal({ seed: 20261124 });

const SEQ = 12;

/** Samples of 1 to SEQ tokens; no token occurs twice in the whole set, so that any mix-up shows. */
const sampleSets = fc
  .array(fc.array(fc.boolean(), { minLength: 1, maxLength: SEQ }), { minLength: 1, maxLength: 30 })
  .map((masks) => {
    let next = 1;
    return masks.map(
      (mask, id): Sample => ({
        id,
        file: "f",
        line: id + 1,
        tokens: Int32Array.from(mask, () => next++),
        supervised: Uint8Array.from(mask, (flag, i) => (flag && i > 0 ? 1 : 0)),
      }),
    );
  });
const configs = fc.record<BatchConfig>({
  seq: fc.constant(SEQ),
  microBatch: fc.integer({ min: 1, max: 4 }),
  accumulation: fc.integer({ min: 1, max: 3 }),
  packing: fc.boolean(),
});
const seeds = fc.nat({ max: 1000 });

/** Everything that Batch promises about its rows, given the samples that it names. */
function checkBatch(batch: Batch, samples: readonly Sample[]): void {
  const { tokens, targets, positions, starts, sampleIds } = batch;
  expect(starts[0]).toBe(0);
  expect(starts).toHaveLength(sampleIds.length + 1);
  expect(starts.at(-1)).toBe(tokens.length);
  expect([targets.length, positions.length]).toEqual([tokens.length, tokens.length]);
  for (const [s, id] of sampleIds.entries()) {
    const sample = samples.find((candidate) => candidate.id === id)!;
    const [from, to] = [starts[s]!, starts[s + 1]!];
    expect([...tokens.subarray(from, to)]).toEqual([...sample.tokens]);
    expect([...positions.subarray(from, to)]).toEqual(Array.from(sample.tokens, (_, i) => i));
    const shifted = Array.from(sample.tokens, (_, i) => (sample.supervised[i + 1] === 1 ? sample.tokens[i + 1]! : -1));
    expect([...targets.subarray(from, to)]).toEqual(shifted);
    expect(targets[to - 1]).toBe(-1);
  }
  expect(batch.supervised).toBe(targets.filter((t) => t >= 0).length);
}

const idsOf = (batches: readonly Batch[]) => batches.flatMap((batch) => batch.sampleIds);

describe("BatchPlan", () => {
  test("batches keep what Batch promises, within the bounds that were announced", () => {
    fc.assert(
      fc.property(sampleSets, configs, seeds, (samples, config, seed) => {
        const plan = new BatchPlan(samples, config, seed);
        expect(plan.maxRows).toBeLessThanOrEqual(maxRows(config));
        for (let step = 0; step < 4; step++) {
          const batches = plan.step(step);
          expect(batches).toHaveLength(config.accumulation);
          for (const batch of batches) {
            checkBatch(batch, samples);
            expect(batch.tokens.length).toBeLessThanOrEqual(plan.maxRows);
            expect(batch.sampleIds.length).toBeLessThanOrEqual(plan.maxSegments);
            if (!config.packing) expect(batch.sampleIds).toHaveLength(config.microBatch);
          }
          expect(plan.supervisedTokens(step)).toBe(batches.reduce((sum, batch) => sum + batch.supervised, 0));
        }
      }),
      { numRuns: 150 },
    );
  });

  test("a step depends on nothing that happened before it", () => {
    const steps = fc.array(fc.nat({ max: 20 }), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(sampleSets, configs, seeds, steps, fc.nat({ max: 40 }), (samples, config, seed, before, step) => {
        const used = new BatchPlan(samples, config, seed);
        for (const other of before) used.step(other);
        expect(used.step(step)).toEqual(new BatchPlan(samples, config, seed).step(step));
      }),
      { numRuns: 100 },
    );
  });

  test("every sample comes once an epoch, in an order of its own", () => {
    fc.assert(
      fc.property(sampleSets, configs, seeds, (samples, config, seed) => {
        const plan = new BatchPlan(samples, config, seed);
        const ids = Array.from({ length: plan.stepsForEpochs(3) }, (_, step) => idsOf(plan.step(step))).flat();
        const all = samples.map((sample) => sample.id);
        for (let epoch = 0; epoch < 3; epoch++) {
          const seen = ids.slice(epoch * all.length, (epoch + 1) * all.length);
          expect([...seen].sort((a, b) => a - b)).toEqual(all);
        }
        expect(plan.epochsAfter(0)).toBe(0);
        expect(plan.epochsAfter(plan.stepsForEpochs(3))).toBeGreaterThanOrEqual(3);
        expect(plan.epochsAfter(plan.stepsForEpochs(3) - 1)).toBeLessThan(3);
      }),
      { numRuns: 100 },
    );
  });

  test("another seed and another epoch give another order", () => {
    const samples = Array.from({ length: 50 }, (_, id) => sampleOf(id, 3));
    const config = { seq: SEQ, microBatch: 50, accumulation: 1, packing: false };
    const order = (seed: number, step: number) => idsOf(new BatchPlan(samples, config, seed).step(step)).join();
    expect(new Set([order(1, 0), order(1, 1), order(2, 0), order(2, 1)]).size).toBe(4);
    expect(order(1, 0)).not.toBe(samples.map((s) => s.id).join());
  });

  test("without packing, the split into micro-batches changes nothing but the split", () => {
    const samples = Array.from({ length: 20 }, (_, id) => sampleOf(id, 1 + (id % 7)));
    const ids = ([microBatch, accumulation]: readonly [number, number]) =>
      idsOf(new BatchPlan(samples, { seq: SEQ, microBatch, accumulation, packing: false }, 5).step(3));
    const [one, ...others] = (
      [
        [1, 8],
        [2, 4],
        [4, 2],
        [8, 1],
      ] as const
    ).map(ids);
    for (const other of others) expect(other).toEqual(one);
  });

  test("a step may be larger than the data", () => {
    const plan = new BatchPlan([sampleOf(0, 3)], { seq: SEQ, microBatch: 2, accumulation: 2, packing: true }, 1);
    expect(idsOf(plan.step(7))).toEqual([0, 0, 0, 0]);
    expect(plan.supervisedTokens(7)).toBe(8);
  });

  test("refuses what it cannot batch", () => {
    const config = { seq: SEQ, microBatch: 1, accumulation: 1, packing: false };
    const make = (samples: Sample[], changed: Partial<BatchConfig> = {}) =>
      new BatchPlan(samples, { ...config, ...changed }, 1);
    const code = (code: string) => expect.objectContaining({ code });
    expect(() => make([])).toThrow(code("DATA_EMPTY"));
    expect(() => make([sampleOf(0, SEQ + 1)])).toThrow(code("DATA_OVERLONG"));
    expect(() => make([sampleOf(0, 2)], { microBatch: 0 })).toThrow(code("CONFIG_INVALID"));
    expect(() => make([sampleOf(0, 2)], { accumulation: 1.5 })).toThrow(code("CONFIG_INVALID"));
    expect(() => make([sampleOf(0, 2)]).step(-1)).toThrow(code("OP_ARGUMENT"));
  });
});

describe("packing", () => {
  test("loses nothing, repeats nothing, and fills sequences up to seq", () => {
    fc.assert(
      fc.property(sampleSets, (samples) => {
        const sequences = pack(samples, samples.keys(), SEQ);
        expect(sequences.flat().sort((a, b) => a - b)).toEqual([...samples.keys()]);
        const used = sequences.map((s) => s.reduce((sum, i) => sum + samples[i]!.tokens.length, 0));
        for (const rows of used) expect(rows).toBeLessThanOrEqual(SEQ);
        // First fit: no sequence could have been appended to an earlier one, so no two are half empty.
        expect(used.filter((rows) => 2 * rows <= SEQ).length).toBeLessThanOrEqual(1);
      }),
    );
  });

  test("is first-fit in order", () => {
    const samples = [7, 8, 5, 4, 1].map((length, id) => sampleOf(id, length));
    expect(pack(samples, samples.keys(), 12)).toEqual([[0, 2], [1, 3], [4]]);
  });
});

describe("evalBatches", () => {
  test("shows each sample once, in order, within the bounds", () => {
    fc.assert(
      fc.property(
        sampleSets,
        fc.integer({ min: SEQ, max: 40 }),
        fc.integer({ min: 1, max: 5 }),
        (samples, rows, segments) => {
          for (const limit of [segments, undefined]) {
            const batches = evalBatches(samples, rows, limit);
            expect(idsOf(batches)).toEqual(samples.map((sample) => sample.id));
            for (const batch of batches) {
              checkBatch(batch, samples);
              expect(batch.tokens.length).toBeLessThanOrEqual(rows);
              expect(batch.sampleIds.length).toBeLessThanOrEqual(limit ?? samples.length);
            }
            const targets = samples.reduce((sum, sample) => sum + targetsOf(sample), 0);
            expect(batches.reduce((sum, batch) => sum + batch.supervised, 0)).toBe(targets);
          }
        },
      ),
    );
  });

  test("no samples, no batches; a sample longer than a batch is refused", () => {
    expect(evalBatches([], 8)).toEqual([]);
    expect(() => evalBatches([sampleOf(0, 9)], 8)).toThrow(expect.objectContaining({ code: "DATA_OVERLONG" }));
  });
});

test("a batch in full: two samples, nothing across the border", () => {
  const a: Sample = {
    id: 4,
    file: "f",
    line: 1,
    tokens: Int32Array.of(10, 11, 12),
    supervised: Uint8Array.of(0, 0, 1),
  };
  const b: Sample = { id: 9, file: "f", line: 2, tokens: Int32Array.of(20, 21), supervised: Uint8Array.of(1, 1) };
  expect(layOut([a, b])).toEqual({
    tokens: Int32Array.of(10, 11, 12, 20, 21),
    targets: Int32Array.of(-1, 12, -1, 21, -1),
    positions: Int32Array.of(0, 1, 2, 0, 1),
    starts: Int32Array.of(0, 3, 5),
    sampleIds: [4, 9],
    supervised: 2,
  });
});

function sampleOf(id: number, length: number): Sample {
  const supervised = new Uint8Array(length).fill(1);
  supervised[0] = 0;
  return { id, file: "f", line: id + 1, tokens: Int32Array.from({ length }, (_, i) => 100 * id + i), supervised };
}
