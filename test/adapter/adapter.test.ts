import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type AdapterConfig, scaleAt } from "../../src/adapter/config.ts";
import { initialWeights } from "../../src/adapter/initial-weights.ts";
import { drawRank, expectedUpdates, rankProbabilities, rowWindow } from "../../src/adapter/rank-draw.ts";
import { sliceConfig, sliceWeights } from "../../src/adapter/slice.ts";
import { adapterConfig, heldWeights, TINY } from "../model/tiny-model.ts";

const distributions: AdapterConfig["distribution"][] = [
  { kind: "uniform" },
  { kind: "range" },
  { kind: "geometric", p: 0.15 },
  { kind: "weights", weights: [4, 1, 1, 2, 3, 1, 1] },
  { kind: "mixture", share: 0.5 },
];

describe("scale rules", () => {
  test.each([
    ["alpha/b", 16 / 4],
    ["alpha/R", 16 / 64],
    ["alpha/sqrt(b)", 16 / 2],
    ["one", 1],
  ] as const)("%s at rank 4 of 64 with alpha 16", (scaleRule, expected) => {
    expect(scaleAt({ alpha: 16, rankMax: 64, scaleRule }, 4)).toBe(expected);
    expect(scaleAt({ alpha: 16, rankMax: 64, scaleRule }, 0)).toBe(0);
  });
});

describe("rank draws", () => {
  test.each(distributions)("$kind: probabilities sum to 1 and draws follow them", (distribution) => {
    const config = adapterConfig({ rankMax: 64, distribution });
    const p = rankProbabilities(config);
    expect(p.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
    const draws = 20_000;
    const counts = new Float64Array(64);
    for (let step = 0; step < draws; step++) counts[drawRank(config, 9, step) - 1]! += 1;
    p.forEach((probability, i) => {
      const deviation = Math.sqrt(draws * probability * (1 - probability));
      expect(Math.abs(counts[i]! - draws * probability)).toBeLessThanOrEqual(5 * deviation);
    });
  });

  test("rows are updated as often as method-facts derives: uniform over powers of two and over 1..64", () => {
    const powers = expectedUpdates(adapterConfig({ rankMax: 64 }), 1);
    const range = expectedUpdates(adapterConfig({ rankMax: 64, distribution: { kind: "range" } }), 1);
    const rows = [1, 2, 4, 8, 16, 32, 64];
    const rounded = (updates: Float64Array) => rows.map((row) => Number(updates[row - 1]!.toFixed(3)));
    expect(rounded(powers)).toEqual([1, 0.857, 0.714, 0.571, 0.429, 0.286, 0.143]);
    expect(rounded(range)).toEqual([1, 0.984, 0.953, 0.891, 0.766, 0.516, 0.016]);
  });

  test("fixed always trains R; frozen trains one row", () => {
    const fixed = adapterConfig({ mode: "fixed" });
    for (let step = 0; step < 50; step++) expect(drawRank(fixed, 1, step)).toBe(8);
    expect(rowWindow({ mode: "frozen" }, 5)).toEqual({ from: 4, to: 5 });
    expect(rowWindow({ mode: "dylora" }, 5)).toEqual({ from: 0, to: 5 });
  });
});

describe("initial weights", () => {
  const small = heldWeights(initialWeights(TINY, adapterConfig({ rankMax: 4 }), 21));
  const large = heldWeights(initialWeights(TINY, adapterConfig({ rankMax: 16 }), 21));

  test("a smaller adapter is the prefix of a larger one", () => {
    for (const [name, values] of small) expect(large.get(name)!.slice(0, values.length)).toEqual(values);
  });

  test("A fills ±1/√K, B is zero, another seed differs", () => {
    const a = large.get("layers.1.down_proj.A")!;
    const bound = 1 / Math.sqrt(TINY.intermediate);
    expect(Math.max(...a)).toBeLessThanOrEqual(bound);
    expect(Math.max(...a)).toBeGreaterThan(0.95 * bound);
    expect(Math.min(...a)).toBeLessThan(-0.95 * bound);
    expect(large.get("layers.1.down_proj.B")!.every((v) => v === 0)).toBe(true);
    const other = heldWeights(initialWeights(TINY, adapterConfig({ rankMax: 16 }), 22));
    expect(other.get("layers.1.down_proj.A")).not.toEqual(a);
  });
});

describe("slices", () => {
  test("a slice is the first rows, and slicing twice is slicing once", () => {
    const tensors = new Map([["t", Float32Array.from({ length: 8 * 5 }, (_, i) => i)]]);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 8 }), (a, b) => {
        const [high, low] = [Math.max(a, b), Math.min(a, b)];
        const once = sliceWeights({ rank: 8, tensors }, low);
        expect(once.tensors.get("t")).toEqual(tensors.get("t")!.slice(0, low * 5));
        expect(sliceWeights(sliceWeights({ rank: 8, tensors }, high), low)).toEqual(once);
      }),
    );
  });

  test.each(["alpha/b", "alpha/R", "alpha/sqrt(b)", "one"] as const)("a slice keeps s(b) under %s", (scaleRule) => {
    const config = adapterConfig({ scaleRule, alpha: 6, rankMax: 8 });
    for (let rank = 1; rank <= 8; rank++)
      expect(scaleAt(sliceConfig(config, rank), rank)).toBeCloseTo(scaleAt(config, rank), 12);
  });

  test.each([0, 9, 1.5, Number.NaN])("rank %s is refused", (rank) => {
    expect(() => sliceWeights({ rank: 8, tensors: new Map() }, rank)).toThrowError(
      expect.objectContaining({ code: "RANK_OUT_OF_RANGE" }),
    );
  });
});
