// The bundled data keep their promise: nobody can answer a held-out word by having seen a relative of it in training.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

const folder = path.join(import.meta.dirname, "../../assets/data");

function words(file: string): Map<string, string> {
  const rows = readFileSync(path.join(folder, file), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, string>);
  return new Map(
    rows.map(({ prompt, completion }) => {
      const match = /^Say ((?:[a-z] )*[a-z])\nPhonemes:$/.exec(prompt!);
      expect(match, prompt).not.toBeNull();
      return [match![1]!.replaceAll(" ", ""), completion!];
    }),
  );
}

const train = words("train.jsonl");
const heldOut = words("heldout.jsonl");

/** A word without its commonest English endings, and without the letter that an ending doubles or drops. */
function stems(word: string): string[] {
  const found = [word];
  for (const ending of ["s", "es", "ed", "d", "ing", "er", "r", "est", "ly", "y", "ness", "less", "ful"]) {
    if (!word.endsWith(ending) || word.length - ending.length < 3) continue;
    const stem = word.slice(0, -ending.length);
    found.push(stem, `${stem}e`, `${stem}y`, stem.replace(/i$/, "y"), stem.replace(/(.)\1$/, "$1"));
  }
  return found;
}

test("there are at least 500 held-out words, and no row twice", () => {
  expect(heldOut.size).toBeGreaterThanOrEqual(500);
  expect(train.size).toBeGreaterThan(10_000);
});

test("no held-out word shares six letters at the front with a training word", () => {
  const prefixes = new Set([...train.keys()].map((word) => word.slice(0, 6)));
  expect([...heldOut.keys()].filter((word) => prefixes.has(word.slice(0, 6)))).toEqual([]);
});

test("no held-out word is an inflection of a training word, nor the other way", () => {
  const related = [...heldOut.keys()].filter((word) => stems(word).some((stem) => train.has(stem)));
  const reverse = [...train.keys()].filter((word) => stems(word).some((stem) => heldOut.has(stem)));
  expect([...related, ...reverse]).toEqual([]);
});

test("no held-out pronunciation is that of a training word", () => {
  const sounds = new Set(train.values());
  expect([...heldOut.values()].filter((sound) => sounds.has(sound))).toEqual([]);
});

test("irregular forms are apart too", () => {
  for (const [form, base] of [
    ["paid", "pay"],
    ["ran", "run"],
    ["merciless", "mercy"],
    ["mice", "mouse"],
    ["women", "woman"],
  ] as const) {
    expect(heldOut.has(form) && train.has(base), form).toBe(false);
    expect(train.has(form) && heldOut.has(base), form).toBe(false);
  }
});

test("every bundled file has the SHA-256 that the provenance states", () => {
  const assets = path.join(folder, "..");
  const stated = [...readFileSync(path.join(assets, "README.md"), "utf8").matchAll(/^([0-9a-f]{64}) {2}(\S+)$/gm)];
  expect(stated.length).toBeGreaterThanOrEqual(7);
  for (const [, sum, file] of stated)
    expect(
      createHash("sha256")
        .update(readFileSync(path.join(assets, file!)))
        .digest("hex"),
      file,
    ).toBe(sum);
});
