import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { ropeFrequencies, ropeMagnitude } from "../../src/model/rope-frequencies.ts";
import { TINY_JSON } from "../quant/tiny-model.ts";

interface Case {
  readonly head_dim: number;
  readonly rope_parameters: Record<string, unknown>;
  readonly longest: number;
  readonly magnitude: number;
  readonly bits: number[];
}

// Made by tools/rope-fixtures.py.
const { cases } = JSON.parse(readFileSync("test/fixtures/rope-frequencies.json", "utf8")) as { cases: Case[] };

test.each(cases)("$head_dim, $rope_parameters.rope_type, $longest: as in transformers, to the bit", (fixture) => {
  const { head_dim, rope_parameters, longest, magnitude, bits } = fixture;
  const { ropes } = parseModelConfig({ ...TINY_JSON, head_dim, rope_parameters, max_position_embeddings: 131_072 });
  const got = ropeFrequencies(ropes[0]!, longest);
  // A stretched base is a power of two f32 numbers, which torch itself computes to the next number only.
  const near = rope_parameters.rope_type === "dynamic" && longest > 131_072 ? 1 : 0;
  const differences = [...new Int32Array(got.buffer)].map((value, i) => Math.abs(value - bits[i]!));
  expect(differences).toHaveLength(bits.length);
  expect(Math.max(...differences)).toBeLessThanOrEqual(near);
  expect(ropeMagnitude(ropes[0]!)).toBeCloseTo(magnitude, 14);
});

test("the fixture has every kind", () => {
  expect(cases).toHaveLength(36);
});
