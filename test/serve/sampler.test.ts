// Against transformers' own processors: fixtures by tools/generation-fixtures.py.

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { randomStream } from "../../src/random/philox.ts";
import { GREEDY, processLogits, type SamplingOptions, sample, softmax } from "../../src/serve/sampler.ts";
import { StopStrings } from "../../src/serve/stop-strings.ts";

interface Case {
  readonly settings: Partial<Record<"temperature" | "top_k" | "top_p" | "min_p" | "repetition_penalty", number>>;
  /** Many logits are equal: which of them stay at an edge is left to a sort. */
  readonly ties: boolean;
  readonly tokens: readonly number[];
  readonly logits: readonly number[];
  readonly probabilities: readonly number[];
}
const { cases } = JSON.parse(readFileSync("test/fixtures/sampling.json", "utf8")) as { cases: Case[] };

const optionsOf = ({ settings }: Case): SamplingOptions => ({
  temperature: settings.temperature ?? 1,
  topK: settings.top_k ?? 0,
  topP: settings.top_p ?? 1,
  minP: settings.min_p ?? 0,
  repetitionPenalty: settings.repetition_penalty ?? 1,
});

describe("transformers", () => {
  test.each(cases.map((c, i) => [i, JSON.stringify(c.settings), c] as const))(
    "%i %s: same probabilities",
    (_, __, c) => {
      const logits = Float32Array.from(c.logits);
      const ours = softmax(processLogits(logits, optionsOf(c), c.tokens));
      const ordered = (values: ArrayLike<number>) => (c.ties ? Array.from(values).sort((a, b) => a - b) : values);
      const [found, wanted] = [ordered(ours), ordered(c.probabilities)];
      for (let i = 0; i < wanted.length; i++) {
        expect(found[i]! === 0, `token ${i}`).toBe(wanted[i] === 0);
        expect(Math.abs(found[i]! - wanted[i]!)).toBeLessThan(1e-6);
      }
      expect([...logits], "the logits stay").toEqual(c.logits.map(Math.fround));
    },
  );

  test("cases keep a part of the tokens, in all sizes", () => {
    const kept = new Set(cases.map((c) => c.probabilities.filter((p) => p > 0).length));
    expect(kept.size).toBeGreaterThan(6);
    expect(kept).toContain(1);
  });
});

test("draws follow the probabilities, and the same stream and index give the same token", () => {
  const c = cases.find(({ settings }) => settings.top_k === 12)!;
  const logits = Float32Array.from(c.logits);
  const draws = 20_000;
  const counts = new Float64Array(logits.length);
  const stream = randomStream(3, "test");
  for (let i = 0; i < draws; i++) counts[sample(logits, optionsOf(c), c.tokens, stream, i)]!++;
  for (const [i, p] of c.probabilities.entries()) {
    if (p === 0) expect(counts[i]).toBe(0);
    // Five standard deviations of a share.
    expect(Math.abs(counts[i]! / draws - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / draws) + 1e-9);
  }
  const again = randomStream(3, "test");
  for (let i = 0; i < 50; i++)
    expect(sample(logits, optionsOf(c), c.tokens, again, i)).toBe(sample(logits, optionsOf(c), c.tokens, stream, i));
});

test("temperature 0 takes the likeliest, the lowest of equals; the penalty counts before", () => {
  const logits = Float32Array.of(1, 3, 3, -1);
  const stream = randomStream(1, "test");
  expect(sample(logits, GREEDY, [], stream, 0)).toBe(1);
  expect(sample(logits, { ...GREEDY, repetitionPenalty: 2 }, [1], stream, 0)).toBe(2);
  expect(sample(logits, { ...GREEDY, repetitionPenalty: 4 }, [1, 2], stream, 0)).toBe(0);
});

describe("stop strings", () => {
  const run = (
    stops: readonly string[],
    pieces: readonly string[],
  ): { text: string; stopped: boolean; shown: string[] } => {
    const stop = new StopStrings(stops);
    const shown: string[] = [];
    for (const piece of pieces) {
      shown.push(stop.push(piece));
      if (stop.stopped) break;
    }
    shown.push(stop.end());
    return { text: shown.join(""), stopped: stop.stopped, shown };
  };

  test("cut wherever pieces end; what only began like one is shown", () => {
    expect(run(["###"], ["a#", "#b##", "#", "#c"])).toMatchObject({ text: "a##b", stopped: true });
    expect(run(["###"], ["a##"])).toMatchObject({ text: "a##", stopped: false });
    expect(run(["xy", "yz"], ["axyz"])).toMatchObject({ text: "a", stopped: true });
    expect(run(["\n\n"], ["one\n", "two\n", "\nthree"])).toMatchObject({ text: "one\ntwo", stopped: true });
    // Nothing is held back that cannot become one.
    expect(run(["###"], ["abc", "d"]).shown).toEqual(["abc", "d", ""]);
  });

  test("the text is that before the first of any, for any cut into pieces", () => {
    const letters = (max: number) => fc.string({ unit: fc.constantFrom("a", "b"), maxLength: max });
    const stops = fc.array(
      letters(3).filter((stop) => stop !== ""),
      { maxLength: 3 },
    );
    fc.assert(
      fc.property(stops, fc.array(letters(4), { maxLength: 8 }), (all, pieces) => {
        const whole = pieces.join("");
        const ends = all.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0);
        const { text, stopped } = run(all, pieces);
        expect(stopped).toBe(ends.length > 0);
        // Of overlapping ones the first to be complete ends the text, which may begin after another.
        if (!stopped) expect(text).toBe(whole);
        else expect(ends).toContain(text.length);
      }),
      { seed: 5, numRuns: 500 },
    );
  });
});
