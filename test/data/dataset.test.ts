import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Sample } from "../../src/data/batch.ts";
import { type DatasetOptions, hashSamples, loadDataset, splitHeldOut } from "../../src/data/dataset.ts";
import { inspectionLines, inspectSample } from "../../src/data/inspect.ts";
import { QdlError } from "../../src/errors.ts";
import { memorySource } from "../../src/formats/byte-source.ts";
import { expected, tiny } from "../tokenizer/tiny.ts";

fc.configureGlobal({ seed: 20261124 });

const tokenizer = tiny("byte-level", expected.templates.chatml);
const file = (name: string, lines: readonly unknown[]) =>
  memorySource(
    new TextEncoder().encode(lines.map((l) => (typeof l === "string" ? l : JSON.stringify(l))).join("\n")),
    name,
  );
const load = (lines: readonly unknown[], options: Partial<DatasetOptions> = {}) =>
  loadDataset([file("d.jsonl", lines)], tokenizer, { seq: 64, ...options });

async function failure(work: Promise<unknown>): Promise<QdlError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof QdlError) return error;
  throw new Error(`expected a QdlError, got ${String(error)}`);
}

describe("loading", () => {
  test("several files become samples in order, with their places", async () => {
    const sources = [
      file("a.jsonl", [{ text: "The cat" }, "", { prompt: "a", completion: "b" }]),
      file("b.jsonl", [
        {
          messages: [
            { role: "user", content: "a" },
            { role: "assistant", content: "b" },
          ],
        },
      ]),
    ];
    const data = await loadDataset(sources, tokenizer, { seq: 64 });
    expect(data.samples.map((s) => [s.id, s.file, s.line])).toEqual([
      [0, "a.jsonl", 1],
      [1, "a.jsonl", 3],
      [2, "b.jsonl", 1],
    ]);
    expect(data.rows).toBe(3);
    expect(data.tokens).toBe(data.samples.reduce((sum, s) => sum + s.tokens.length, 0));
    expect(data.supervisedTokens).toBe(data.samples.reduce((sum, s) => sum + s.supervised.filter(Boolean).length, 0));
    expect(data.skipped.count + data.overlong.count + data.unsupervised.count).toBe(0);
  });

  test("the hash tells tokens, masks and their borders, and nothing else", async () => {
    const rows = [{ prompt: "a", completion: "b" }, { text: "The cat" }];
    const { sha256, samples } = await load(rows);
    expect((await load(["", ...rows, ""])).sha256).toBe(sha256);
    expect((await load([{ prompt: "a", completion: "c" }, rows[1]])).sha256).not.toBe(sha256);
    expect((await load(rows, { lossOn: "all" })).samples[0]!.tokens).toEqual(samples[0]!.tokens);
    expect((await load([...rows].reverse())).sha256).not.toBe(sha256);
    const cut = (tokens: number[], supervised: number[]): Sample => ({
      ...samples[0]!,
      tokens: Int32Array.from(tokens),
      supervised: Uint8Array.from(supervised),
    });
    const hashes = [
      [cut([1, 2, 3, 4], [0, 1, 1, 1])],
      [cut([1, 2, 3, 4], [0, 0, 1, 1])],
      [cut([1, 2], [0, 1]), cut([3, 4], [1, 1])],
    ].map(hashSamples);
    expect(new Set(hashes).size).toBe(3);
    // Without the lengths these two would be the same bytes.
    const two = hashSamples([cut([1], [0]), cut([2], [1])]);
    expect(hashSamples([cut([1, 512], [0, 1])])).not.toBe(two);
  });

  test("broken rows are reported together, ten of them in full", async () => {
    const good = { text: "a" };
    const bad = Array.from({ length: 12 }, (_, i) => (i % 2 === 0 ? "{" : { question: i }));
    const error = await failure(load([good, ...bad, good]));
    expect(error.code).toBe("DATA_ROW_INVALID");
    expect(error.message).toContain("12 rows are broken");
    expect(error.message).toContain("d.jsonl:2:2: not JSON");
    expect(error.message).toContain('d.jsonl:3: has the keys "question"');
    expect(error.message.match(/d\.jsonl:/g)).toHaveLength(10);
    expect(error.message).toContain("and 2 more");
    expect(error.details).toMatchObject({ file: "d.jsonl", line: 2, column: 2, count: 12 });
    expect(error.hint).toContain("--skip-bad-rows");
  });

  test("or are skipped and counted", async () => {
    const data = await load([{ text: "a" }, "{", { text: "b" }, { messages: [{ role: "x" }] }], { skipBadRows: true });
    expect(data.samples.map((s) => s.line)).toEqual([1, 3]);
    expect(data.rows).toBe(4);
    expect(data.skipped.count).toBe(2);
    expect(data.skipped.rows.map((r) => [r.file, r.line])).toEqual([
      ["d.jsonl", 2],
      ["d.jsonl", 4],
    ]);
  });

  test("samples without anything to learn are left out and counted", async () => {
    const data = await load([{ messages: [{ role: "user", content: "a" }] }, { text: "a" }]);
    expect(data.samples).toHaveLength(1);
    expect(data.unsupervised).toEqual({ count: 1, first: { file: "d.jsonl", line: 1 } });
  });

  test.each<[string, readonly unknown[], Partial<DatasetOptions>, string, RegExp]>([
    ["no rows", [], {}, "DATA_EMPTY", /0 rows/],
    ["blank lines only", ["", "  ", ""], {}, "DATA_EMPTY", /0 rows/],
    ["all broken and skipped", ["{", "["], { skipBadRows: true }, "DATA_EMPTY", /2 broken/],
    [
      "all dropped",
      [{ text: "The cat sat on the mat, 日本" }],
      { seq: 4, overlong: "drop" },
      "DATA_EMPTY",
      /1 dropped/,
    ],
    ["nothing to learn", [{ messages: [{ role: "user", content: "a" }] }], {}, "DATA_EMPTY", /1 without/],
    ["seq too small", [{ text: "a" }], { seq: 1 }, "CONFIG_INVALID", /seq is 1/],
  ])("refused: %s", async (_, lines, options, code, message) => {
    const error = await failure(load(lines, options));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  test("reading can be stopped, even from a timer", async () => {
    const lines = Array.from({ length: 20_000 }, (_, i) => ({ text: `The cat ${i} sat on the mat.` }));
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), 60);
    const error = await failure(load(lines, { signal: controller.signal }));
    clearTimeout(timer);
    expect(error.code).toBe("INTERRUPTED");
  });

  test("no source at all", async () => {
    expect((await failure(loadDataset([], tokenizer, { seq: 8 }))).code).toBe("DATA_EMPTY");
  });
});

describe("samples longer than seq", () => {
  const long = { prompt: "Two plus two is", completion: " four, and two plus four is six." };
  const lines = [{ text: "a" }, long, { text: "The cat sat on the mat. The dog sat on the cat." }];

  test("are an error that says how many, how long, and where", async () => {
    const whole = await load(lines);
    const lengths = whole.samples.map((s) => s.tokens.length);
    const error = await failure(load(lines, { seq: 10 }));
    expect(error.code).toBe("DATA_OVERLONG");
    expect(error.details).toEqual({ count: 2, longest: Math.max(...lengths), seq: 10, file: "d.jsonl", line: 2 });
    expect((await load(lines, { seq: Math.max(...lengths) })).overlong.count).toBe(0);
  });

  test("can be truncated", async () => {
    const whole = await load(lines);
    const cut = await load(lines, { seq: 10, overlong: "truncate" });
    expect(cut.samples.map((s) => [...s.tokens])).toEqual(whole.samples.map((s) => [...s.tokens.subarray(0, 10)]));
    expect(cut.samples.map((s) => [...s.supervised])).toEqual(
      whole.samples.map((s) => [...s.supervised.subarray(0, 10)]),
    );
    expect(cut.overlong).toMatchObject({ policy: "truncate", count: 2, first: { file: "d.jsonl", line: 2 } });
  });

  test("can be truncated until nothing is left to learn", async () => {
    const cut = await load([{ text: "a" }, long], { seq: 3, overlong: "truncate" });
    expect(cut.samples.map((s) => s.line)).toEqual([1]);
    expect(cut.unsupervised.count).toBe(1);
  });

  test("can be dropped", async () => {
    const kept = await load(lines, { seq: 10, overlong: "drop" });
    expect(kept.samples.map((s) => s.line)).toEqual([1]);
    expect(kept.overlong.count).toBe(2);
  });

  test("can be split: every supervised token is learned once, after the token that stood before it", async () => {
    const words = fc.array(fc.constantFrom("The cat", " sat", " 日本", " two plus", "."), {
      minLength: 1,
      maxLength: 20,
    });
    await fc.assert(
      fc.asyncProperty(words, words, fc.integer({ min: 2, max: 12 }), async (prompt, completion, seq) => {
        const row = [{ prompt: prompt.join(""), completion: completion.join("") }];
        const [whole] = (await load(row, { seq: 10_000 })).samples;
        const pieces = (await load(row, { seq, overlong: "split" })).samples;
        const pairs = (s: Sample) =>
          Array.from(s.tokens, (id, i) => (s.supervised[i] === 1 ? `${s.tokens[i - 1]}>${id}` : "")).filter(Boolean);
        expect(pieces.flatMap(pairs)).toEqual(pairs(whole!));
        for (const piece of pieces) {
          expect(piece.tokens.length).toBeLessThanOrEqual(seq);
          expect(piece.supervised[0]).toBe(0);
        }
        expect(pieces.map((p) => p.id)).toEqual(pieces.map((_, i) => i));
      }),
      { numRuns: 50 },
    );
  });
});

describe("held-out rows", () => {
  const lines = Array.from({ length: 40 }, (_, i) => ({ text: `The cat ${i} sat on the mat.` }));

  test("a share or a number, drawn by the seed, both parts in order and disjoint", async () => {
    const { samples } = await load(lines);
    for (const [asked, count] of [
      [0, 0],
      [0.1, 4],
      [0.001, 1],
      [7, 7],
    ] as const) {
      const { train, heldOut } = splitHeldOut(samples, asked, 1);
      expect(heldOut).toHaveLength(count);
      expect([...train, ...heldOut].map((s) => s.id).sort((a, b) => a - b)).toEqual(samples.map((s) => s.id));
      for (const part of [train, heldOut])
        expect(part.map((s) => s.id)).toEqual(part.map((s) => s.id).sort((a, b) => a - b));
    }
    const ids = (seed: number) => splitHeldOut(samples, 0.25, seed).heldOut.map((s) => s.id);
    expect(ids(1)).toEqual(ids(1));
    expect(ids(1)).not.toEqual(ids(2));
  });

  test("pieces of one row never come apart", async () => {
    const { samples } = await load(lines, { seq: 6, overlong: "split" });
    expect(samples.length).toBeGreaterThanOrEqual(80);
    const { train, heldOut } = splitHeldOut(samples, 10, 3);
    const held = new Set(heldOut.map((s) => s.line));
    expect(held.size).toBe(10);
    expect(train.some((s) => held.has(s.line))).toBe(false);
  });

  test.each([
    [-1, "CONFIG_INVALID"],
    [Number.NaN, "CONFIG_INVALID"],
    [1.5, "CONFIG_INVALID"],
    [40, "DATA_EMPTY"],
    [0.999, "DATA_EMPTY"],
  ])("%s of 40 is refused", async (asked, code) => {
    const { samples } = await load(lines);
    expect(() => splitHeldOut(samples, asked, 1)).toThrow(expect.objectContaining({ code }));
  });
});

test("inspection shows each token with its mask, and its text adds up to the sample's", async () => {
  const data = await load([{ prompt: "The 日", completion: " cat" }]);
  const inspected = inspectSample(data.samples[0]!, tokenizer);
  expect(inspected.tokens.map((t) => t.id)).toEqual([...data.samples[0]!.tokens]);
  expect(inspected.supervised).toBe(data.supervisedTokens);
  expect(inspected.tokens.at(-1)).toMatchObject({ text: "</s>", special: true, supervised: true });
  const lines = inspectionLines(inspected);
  expect(lines[0]).toBe(`sample 0 (d.jsonl:1): ${data.tokens} tokens, ${data.supervisedTokens} supervised`);
  expect(lines).toHaveLength(1 + data.tokens);
  expect(lines.at(-1)).toMatch(/^ +\d+ \* +\d+ "<\/s>"$/);
  expect(lines[1]).not.toContain("*");
});
