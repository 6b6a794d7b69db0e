// The shapes have as many parameters as their models are published with: a wrong size would show.

import { expect, test } from "vitest";
import { namedShape, SHAPE_NAMES, type ShapeName } from "../../src/model/named-shapes.ts";
import { blockWeights, trainingFlops } from "../../src/model/useful-flops.ts";

/** Weights of linears, embedding and head in millions, from the models' cards. */
const MILLIONS: Readonly<Record<ShapeName, number>> = {
  tiny: 4.95,
  "smollm2-135m": 135,
  "smollm2-360m": 362,
  "tinyllama-1.1b": 1100,
  "llama-7b": 6738,
  "llama-13b": 13016,
  "llama2-70b": 68977,
  "llama3-8b": 8030,
  "mistral-7b": 7242,
  "qwen2.5-0.5b": 494,
  "qwen2.5-7b": 7616,
  "qwen3-8b": 8191,
  "gemma2-2b": 2614,
  "phi3-mini": 3821,
  "falcon-7b": 6922,
  "falcon-40b": 41303,
};

test.each(SHAPE_NAMES)("%s", (name) => {
  const config = namedShape(name);
  const tables = (config.tiedEmbeddings ? 1 : 2) * config.vocabulary * config.hidden;
  const millions = (blockWeights(config) + tables) / 1e6;
  expect(Math.abs(millions / MILLIONS[name] - 1)).toBeLessThan(0.01);
});

test("tokens behind a window are no work", () => {
  const mistral = namedShape("mistral-7b");
  const flops = (length: number) => trainingFlops(mistral, { rank: 0, targets: [], lengths: [length] });
  // Beyond the window of 4096 every further token costs the same.
  expect(flops(6001) - flops(6000)).toBe(flops(5001) - flops(5000));
  expect(flops(4000) - flops(3999)).toBeLessThan(flops(4096) - flops(4095));
});
