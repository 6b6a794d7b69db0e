import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { editDistance, measure, ratio } from "../../src/eval/task-metrics.ts";

const words = fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 7 });

/** The definition, without a table: exponential, and short enough to believe. */
function slowDistance(from: readonly string[], to: readonly string[]): number {
  const [first, ...rest] = from;
  const [other, ...others] = to;
  if (first === undefined) return to.length;
  if (other === undefined) return from.length;
  if (first === other) return slowDistance(rest, others);
  return 1 + Math.min(slowDistance(rest, to), slowDistance(from, others), slowDistance(rest, others));
}

describe("edit distance", () => {
  test("equals its definition", () => {
    fc.assert(
      fc.property(words, words, (from, to) => editDistance(from, to) === slowDistance(from, to)),
      { seed: 1, numRuns: 300 },
    );
  });

  test("counts phonemes, not letters", () => {
    expect(editDistance("N UW M AE T".split(" "), "N AH M AE T IH K".split(" "))).toBe(3);
  });
});

describe("measure", () => {
  test("exact match ignores white space and nothing else", () => {
    expect(measure("exact-match", [" A  B", "A b", "A B C"], ["A B ", "A B", "A B"], 1).value).toBeCloseTo(1 / 3);
  });

  test("error rate weighs every token of the references alike", () => {
    expect(measure("error-rate", ["A", "A B C D"], ["B", "A B C"], 1).value).toBeCloseTo(2 / 4);
    expect(measure("error-rate", ["x y z"], ["a"], 1).value).toBe(3);
  });

  test("refuses lists that do not belong together", () => {
    expect(() => measure("exact-match", ["a"], [], 1)).toThrow(RangeError);
    expect(() => measure("exact-match", [], [], 1)).toThrow(RangeError);
  });
});

describe("bootstrap interval", () => {
  const shares = (n: number, p: number) => Array.from({ length: n }, (_, i) => ({ part: i < p * n ? 1 : 0, whole: 1 }));

  test("is that of a proportion: ±1.96·√(p(1−p)/n)", () => {
    const { value, low, high } = ratio(shares(900, 0.3), 4);
    const half = 1.96 * Math.sqrt((0.3 * 0.7) / 900);
    expect(value).toBeCloseTo(0.3);
    expect(low).toBeGreaterThan(0.3 - 1.15 * half);
    expect(low).toBeLessThan(0.3 - 0.85 * half);
    expect(high - value).toBeCloseTo(value - low, 2);
  });

  test("depends on the seed and the examples only", () => {
    const uneven = Array.from({ length: 50 }, (_, i) => ({ part: Math.sqrt(i), whole: i + 1 }));
    expect(ratio(uneven, 9)).toEqual(ratio(uneven, 9));
    expect(ratio(uneven, 9)).not.toEqual(ratio(uneven, 10));
  });

  test("has no width where all examples agree", () => {
    expect(ratio(shares(20, 1), 1)).toEqual({ value: 1, low: 1, high: 1 });
  });
});
