// How a step is cut must not matter: eight sequences of unequal supervised length as 1×8, 2×4, 4×2 and 8×1 micro-batches,
// packed and unpacked, give the same loss and the same gradients. And segments of a micro-batch must not see each other.

import { describe, expect, test } from "vitest";
import type { Batch, BatchConfig, Sample } from "../../src/data/batch.ts";
import { BatchPlan } from "../../src/data/batches.ts";
import { type FixtureSequence, readCase } from "./fixture.ts";
import { Lab, packed, SETTINGS, type StepResult } from "./lab.ts";
import { printRow, short, tensorError, worstOf } from "./measure.ts";

const RANK = 4;

describe("the loss of a step is Σ cross-entropy / supervised tokens, however the step is cut", () => {
  for (const setting of SETTINGS)
    test(`${setting.backend} in ${setting.dtype}: loss and every gradient within ${setting.splitLimit}`, async () => {
      const fixture = await readCase("nf4");
      const sequences = [...fixture.sequences, ...fixture.pool];
      expect(sequences).toHaveLength(8);
      const supervised = sequences.map((sequence) => sequence.targets.filter((target) => target >= 0).length);
      expect(new Set(supervised).size).toBeGreaterThanOrEqual(5);
      await using lab = await Lab.open(fixture, setting);
      const whole = await lab.step([packed(sequences)], RANK);
      const measured: Record<string, number> = {};
      for (const { name, batches } of cuts(sequences)) {
        expect(batches.flatMap((batch) => batch.sampleIds).sort()).toEqual(sequences.map((_, i) => i));
        const cut = await lab.step(batches, RANK);
        measured[name] = largestDifference(cut, whole);
      }
      for (const [name, difference] of Object.entries(measured))
        printRow([`${setting.backend} ${setting.dtype}`, name, short(difference)]);
      for (const [name, difference] of Object.entries(measured))
        expect(difference, name).toBeLessThanOrEqual(setting.splitLimit);
    });
});

describe("changing a token of segment 1 leaves segment 2 equal to the bit", () => {
  for (const setting of SETTINGS)
    test(`${setting.backend} in ${setting.dtype}`, async () => {
      const fixture = await readCase("nf4");
      const [first, second] = fixture.sequences as [FixtureSequence, FixtureSequence];
      const other = { ...first, tokens: first.tokens.map((token, i) => (i === 5 ? (token + 1) % 97 : token)) };
      const silent = (sequence: FixtureSequence) => ({ ...sequence, targets: sequence.targets.map(() => -1) });
      await using lab = await Lab.open(fixture, setting);
      const rows = first.tokens.length;

      // Losses of segment 2, and the gradients that come from segment 2 alone.
      const before = await lab.step([packed([silent(first), second])], RANK);
      const after = await lab.step([packed([silent(other), second])], RANK);
      expect(bits(after.losses.subarray(rows))).toEqual(bits(before.losses.subarray(rows)));
      for (const [name, gradient] of before.gradients) {
        expect(
          gradient.some((value) => value !== 0),
          name,
        ).toBe(true);
        expect(bits(after.gradients.get(name)!), name).toEqual(bits(gradient));
      }

      // The change does reach segment 1.
      const heard = await lab.step([packed([first, second])], RANK);
      const changed = await lab.step([packed([other, second])], RANK);
      expect(bits(changed.losses.subarray(0, rows))).not.toEqual(bits(heard.losses.subarray(0, rows)));
      expect(bits(changed.losses.subarray(rows))).toEqual(bits(heard.losses.subarray(rows)));

      // Logits, when both are decoded in the same passes: token by token, and as whole prompts.
      const vocabulary = lab.model.config.vocabulary;
      for (const piece of [1, rows]) {
        const one = await lab.logits([first, second], RANK, piece);
        const two = await lab.logits([other, second], RANK, piece);
        const firstRows = (piece === 1 ? rows : 1) * vocabulary;
        expect(bits(two.subarray(firstRows))).toEqual(bits(one.subarray(firstRows)));
        expect(bits(two.subarray(0, firstRows))).not.toEqual(bits(one.subarray(0, firstRows)));
      }
    });
});

/** Every way to cut the sequences that BatchPlan offers. */
function cuts(sequences: readonly FixtureSequence[]): { name: string; batches: Batch[] }[] {
  const samples = sequences.map(
    ({ tokens, supervised }, id): Sample => ({
      id,
      file: "fixture",
      line: id + 1,
      tokens: Int32Array.from(tokens),
      supervised: Uint8Array.from(supervised),
    }),
  );
  const longest = Math.max(...samples.map((sample) => sample.tokens.length));
  const total = samples.reduce((sum, sample) => sum + sample.tokens.length, 0);
  const cut = (config: BatchConfig) => new BatchPlan(samples, config, 1).step(0);
  const unpacked = [1, 2, 4, 8].map((microBatch) => ({
    name: `${8 / microBatch} of ${microBatch}`,
    batches: cut({ seq: longest, microBatch, accumulation: 8 / microBatch, packing: false }),
  }));
  // With room for everything there is one packed sequence; with less there are several.
  const inOne = {
    name: "packed into one",
    batches: cut({ seq: total, microBatch: 1, accumulation: 1, packing: true }),
  };
  const counts = [40, 60].map((seq) => {
    const count = Math.round(
      new BatchPlan(samples, { seq, microBatch: 1, accumulation: 1, packing: true }, 1).stepsForEpochs(1),
    );
    const batches = cut({ seq, microBatch: 1, accumulation: count, packing: true });
    return { name: `packed into ${count}`, batches };
  });
  return [...unpacked, inOne, ...counts];
}

/** The largest relative difference of the loss, a gradient tensor or one of its rows. */
function largestDifference(got: StepResult, expected: StepResult): number {
  const tensors = [...expected.gradients].map(([name, gradient]) =>
    tensorError(name, got.gradients.get(name)!, gradient, RANK),
  );
  return Math.max(Math.abs(got.loss / expected.loss - 1), worstOf(tensors).worstRow.worstRow);
}

/** The raw 32-bit patterns, so that −0 differs from 0 and NaN equals itself. */
function bits(values: Float32Array): Uint32Array {
  return new Uint32Array(values.slice().buffer);
}
