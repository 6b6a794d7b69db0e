// Greedy text equals transformers' token by token: fixtures by tools/generation-fixtures.py, with the gap between the two best
// scores at the least certain token.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { openBackend } from "../../src/backends/open.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { loadBase } from "../../src/quant/load-base.ts";
import { Engine } from "../../src/serve/engine.ts";
import { generate } from "../../src/serve/generate.ts";
import { GREEDY } from "../../src/serve/sampler.ts";

interface Case {
  readonly model: string;
  readonly repetitionPenalty: number;
  readonly prompt: readonly number[];
  readonly tokens: readonly number[];
  readonly gap: number;
}
const { cases } = JSON.parse(readFileSync("test/fixtures/greedy.json", "utf8")) as { cases: Case[] };
const IDENTITY = { name: "tiny", revision: null, sha256: "0", templateSha256: null };

describe.each(["reference", "cpu"] as const)("%s", (backendName) => {
  test.each(cases)(
    "$model, repetition penalty $repetitionPenalty",
    async ({ model, repetitionPenalty, prompt, tokens, gap }) => {
      // Scores of f32 are closer to those of f64 than this: equal text is no luck.
      expect(gap).toBeGreaterThan(5e-3);
      await using backend = await openBackend(backendName, {});
      const checkpoint = await openCheckpoint(await openFolder(`test/fixtures/parity/models/${model}`));
      const config = parseModelConfig(checkpoint.configJson);
      const options = { checkpoint, config, backend, identity: IDENTITY, format: "f32", computeDtype: "f32" } as const;
      const base = await loadBase(options);
      await checkpoint.close();
      try {
        const maxLength = prompt.length + tokens.length + 1;
        using engine = new Engine({ backend, model: base, adapter: null, sequences: 1, maxLength, maxRows: 4 });
        const sampling = { ...GREEDY, repetitionPenalty };
        const request = { rank: 0, maxNewTokens: tokens.length, stopIds: [], sampling, seed: 1 };
        const found: number[] = [];
        for await (const token of generate(engine, Int32Array.from(prompt), request)) found.push(token);
        expect(found).toEqual(tokens);
      } finally {
        base.dispose();
      }
    },
  );
});
