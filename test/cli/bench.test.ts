import { describe, expect, test } from "vitest";
import { linearNames } from "../../src/model/config.ts";
import { namedShape } from "../../src/model/named-shapes.ts";
import { trainingFlops } from "../../src/model/useful-flops.ts";
import { qdylora } from "./tiny-project.ts";

const json = async (...args: string[]) => {
  const { code, out, err } = await qdylora(["bench", ...args, "--json"]);
  expect(code, err).toBe(0);
  return JSON.parse(out);
};

describe("bench", () => {
  test("train says what it did and how it relates to the peak of the same run", async () => {
    const result = await json(
      "train",
      "--shape",
      "tiny",
      "--batch",
      "2",
      "--seq",
      "32",
      "--rank-max",
      "8",
      "--rank",
      "4",
      "--seconds",
      "0.2",
    );
    const { tokensPerSecond, stepMs, usefulTflops, peakTflops, share, peakBytes, estimatedPeakBytes } = result;
    expect(result).toMatchObject({ rank: 4, batch: 2, seq: 32, shape: "tiny", backend: "cpu" });
    expect(tokensPerSecond).toBeCloseTo((1000 * 64) / stepMs, 3);
    expect(share).toBeCloseTo(usefulTflops / peakTflops, 6);
    expect(share).toBeGreaterThan(0);
    expect(peakBytes).toBeGreaterThan(0);
    expect(estimatedPeakBytes).toBeGreaterThan(0);
  });

  test("ops times forward and backward of each size", async () => {
    const results = (await json("ops", "--seq", "16", "--seconds", "0.2")) as {
      op: string;
      shape: string;
      share: number;
    }[];
    expect(results.length).toBe(12);
    expect(new Set(results.map(({ shape }) => shape)).size).toBe(6);
    for (const { share } of results) expect(share).toBeGreaterThan(0);
  });

  test("generate counts the bytes of a token", async () => {
    const result = await json("generate", "--shape", "tiny", "--seq", "16", "--rank", "2", "--seconds", "0.2");
    expect(result.gbPerSecond).toBeCloseTo((result.bytesPerToken * result.tokensPerSecond) / 1e9, 6);
    expect(result.copyGbPerSecond).toBeGreaterThan(0);
  });
});

test("useful work of SmolLM2-135M's step, worked out by hand", () => {
  const shape = namedShape("smollm2-135m");
  const block = 30 * (576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536);
  const widths = 30 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536));
  const pairs = 4 * ((256 * 257) / 2);
  const expected = 1024 * (4 * block + 4 * 49152 * 576 + 6 * 64 * widths) + 14 * 30 * 576 * pairs;
  const lengths = [256, 256, 256, 256];
  expect(trainingFlops(shape, { rank: 64, targets: linearNames(shape), lengths })).toBe(expected);
});
