import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { scaleAt } from "../../src/adapter/config.ts";
import type { Adapter } from "../../src/adapter/parameters.ts";
import type { Backend } from "../../src/backends/backend.ts";
import { openBackend } from "../../src/backends/open.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import { LossProgram, uniformRange } from "../../src/model/loss-program.ts";
import { Engine } from "../../src/serve/engine.ts";
import { generate, generateBatch } from "../../src/serve/generate.ts";
import { argmax, GREEDY } from "../../src/serve/sampler.ts";
import { adapterConfig, randomAdapter, randomBatch, tinyModel } from "../model/tiny-model.ts";

/** −log softmax(logits)[target] */
function crossEntropy(logits: Float32Array, target: number): number {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  return Math.log(logits.reduce((sum, z) => sum + Math.exp(z - highest), 0)) + highest - logits[target]!;
}

const options = { maxNewTokens: 9, stopIds: [], sampling: GREEDY, seed: 1 };

describe.each(["reference", "cpu"] as const)("engine on %s", (name) => {
  let backend: Backend;
  let model: FrozenModel;
  let adapter: Adapter;
  const open = (overrides: Partial<{ sequences: number; maxRows: number }> = {}) =>
    new Engine({ backend, model, adapter, sequences: 3, maxLength: 24, maxRows: 32, ...overrides });

  beforeEach(async () => {
    backend = await openBackend(name, {});
    model = tinyModel(backend, "f32");
    adapter = randomAdapter(backend, model, adapterConfig(), false);
  });
  afterEach(async () => {
    adapter[Symbol.dispose]();
    model.dispose();
    await backend[Symbol.asyncDispose]();
  });

  test.each([0, 2, 8])("logits from the cache give the loss of the whole pass at rank %i", async (rank) => {
    const batch = randomBatch([11]);
    using scorer = LossProgram.scorer(backend, model, adapter, { N: 11, S: 1, Q: 0 });
    const losses = await scorer.run(batch, uniformRange(batch, rank, scaleAt(adapter.config, rank)), 0);
    using engine = open();
    for (let row = 0; row < 10; row++) {
      const [logits] = await engine.extend([{ sequence: 1, tokens: batch.tokens.subarray(row, row + 1), rank }]);
      expect(crossEntropy(logits!, batch.targets[row]!)).toBeCloseTo(losses[row]!, 4);
    }
  });

  test("sequences of unlike length and rank in one pass do not disturb each other", async () => {
    const prompts = [5, 9, 2].map((length, i) => randomBatch([length], 20 + i).tokens);
    const ranks = [8, 0, 3];
    using together = open();
    const all = await together.extend(
      prompts.map((tokens, sequence) => ({ sequence, tokens, rank: ranks[sequence]! })),
    );
    using alone = open();
    for (const [i, tokens] of prompts.entries()) {
      const [logits] = await alone.extend([{ sequence: i, tokens, rank: ranks[i]! }]);
      for (const [j, z] of logits!.entries()) expect(all[i]![j]!).toBeCloseTo(z, 4);
    }
  });

  test("prompts longer than a pass are fed in pieces with the same result", async () => {
    const prompts = [17, 14].map((length, i) => randomBatch([length], 30 + i).tokens);
    const extensions = prompts.map((tokens, sequence) => ({ sequence, tokens, rank: 4 }));
    using wide = open({ maxRows: 40 });
    using narrow = open({ maxRows: 5 });
    const expected = await wide.extend(extensions);
    const got = await narrow.extend(extensions);
    for (const [i, logits] of expected.entries()) expect(argmax(got[i]!)).toBe(argmax(logits));
    for (const [i, z] of expected[1]!.entries()) expect(got[1]![i]!).toBeCloseTo(z, 4);
  });

  test("a batch in waves continues each prompt as it would be continued alone", async () => {
    const prompts = [4, 7, 3, 6, 5].map((length, i) => randomBatch([length], 40 + i).tokens);
    using engine = open({ sequences: 2 });
    const many = await generateBatch(engine, prompts, { ...options, rank: 8 });
    using single = open({ sequences: 1 });
    for (const [i, prompt] of prompts.entries()) {
      single.reset(0);
      const tokens: number[] = [];
      for await (const token of generate(single, prompt, { ...options, rank: 8 })) tokens.push(token);
      expect(Array.from(many[i]!)).toEqual(tokens);
      expect(tokens.length).toBe(options.maxNewTokens);
    }
  });

  test("a stop id ends a continuation and is not part of it", async () => {
    const prompt = randomBatch([6], 50).tokens;
    using engine = open();
    const [free] = await generateBatch(engine, [prompt], { ...options, rank: 8 });
    const stop = free![3]!;
    const [stopped] = await generateBatch(engine, [prompt], { ...options, rank: 8, stopIds: [stop] });
    expect(stopped).toEqual(free!.slice(0, free!.indexOf(stop)));
  });

  test("a sequence that would overflow is refused", async () => {
    using engine = open();
    await expect(engine.extend([{ sequence: 0, tokens: new Int32Array(25), rank: 1 }])).rejects.toMatchObject({
      code: "OP_ARGUMENT",
    });
  });
});
