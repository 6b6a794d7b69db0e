import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { ropeFrequencies } from "../../src/model/rope-frequencies.ts";
import { TINY_JSON } from "../quant/tiny-model.ts";

interface Case {
  readonly head_dim: number;
  readonly rope_parameters: Record<string, unknown>;
  readonly bits: number[];
}

// Made by tools/rope-fixtures.py.
const { cases } = JSON.parse(readFileSync("test/fixtures/rope-frequencies.json", "utf8")) as { cases: Case[] };

test.each(cases)("$head_dim $rope_parameters equals transformers to the bit", ({ head_dim, rope_parameters, bits }) => {
  const { ropes } = parseModelConfig({ ...TINY_JSON, head_dim, rope_parameters });
  const got = ropeFrequencies(ropes[0]!, head_dim);
  expect([...new Int32Array(got.buffer)]).toEqual(bits);
});

test("the fixture has every kind", () => {
  expect(cases).toHaveLength(12);
});
