import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { hashName, permutation, philox4x32, randomStream } from "../../src/random/philox.ts";

fc.configureGlobal({ seed: 20261124 });

describe("Philox4x32-10", () => {
  // The three "philox4x32 10" lines of tests/kat_vectors in Random123 1.14.0: counter, key, output.
  const ones = 0xffffffff;
  const vectors = [
    { counter: [0, 0, 0, 0], key: [0, 0], output: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8] },
    { counter: [ones, ones, ones, ones], key: [ones, ones], output: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd] },
    {
      counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      key: [0xa4093822, 0x299f31d0],
      output: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    },
  ] as const;
  test.each(vectors)("known answer for counter $counter", ({ counter, key, output }) => {
    const out = new Uint32Array(4);
    const [c0, c1, c2, c3] = counter;
    philox4x32(c0, c1, c2, c3, key[0], key[1], out);
    expect([...out]).toEqual(output);
  });

  test("seed, row and block are the key and the low counter words, the name's hash the high ones", () => {
    const seed = 0x1_2345_6789_abcd;
    const [low, high] = hashName("weights");
    const out = new Uint32Array(4);
    philox4x32(9, 77, low, high, 0x6789abcd, 0x12345, out);
    const stream = randomStream(seed, "weights");
    expect([36, 37, 38, 39].map((i) => stream.u32(i, 77))).toEqual([...out]);
  });
});

test("names are hashed with FNV-1a, 64 bits", () => {
  expect(hashName("")).toEqual([0x84222325, 0xcbf29ce4]);
  expect(hashName("a")).toEqual([0x8601ec8c, 0xaf63dc4c]);
  expect(hashName("foobar")).toEqual([0xf73967e8, 0x85944171]);
});

describe("a stream", () => {
  test("is a function of seed, name, index and row, whatever was read before", () => {
    const index = fc.nat({ max: 2 ** 31 - 1 });
    fc.assert(
      fc.property(fc.nat(), fc.string(), index, fc.nat(), fc.array(index), (seed, name, i, row, before) => {
        const used = randomStream(seed, name);
        for (const other of before) used.normal(other, row);
        const fresh = randomStream(seed, name);
        expect(used.u32(i, row)).toBe(fresh.u32(i, row));
        expect(used.normal(i, row)).toBe(fresh.normal(i, row));
      }),
      { numRuns: 100 },
    );
  });

  test("differs by seed, name, row and index", () => {
    const words = [randomStream(1, "a"), randomStream(2, "a"), randomStream(1 + 2 ** 32, "a"), randomStream(1, "b")];
    const seen = words.flatMap((s) => [s.u32(0), s.u32(1), s.u32(4), s.u32(0, 1), s.u32(2 ** 33)]);
    expect(new Set(seen).size).toBe(20);
  });

  test("has the moments of its distributions", () => {
    const stream = randomStream(3, "moments");
    const n = 200_000;
    let inside = true;
    let [u1, u2, z1, z2, z4, cross] = [0, 0, 0, 0, 0, 0];
    for (let i = 0; i < n; i++) {
      const u = stream.uniform(i);
      inside &&= u > 0 && u < 1;
      u1 += u / n;
      u2 += (u * u) / n;
    }
    for (let i = 0; i < n; i++) {
      const z = stream.normal(i);
      z1 += z / n;
      z2 += (z * z) / n;
      z4 += z ** 4 / n;
      if (i % 2 === 1) cross += (z * stream.normal(i - 1)) / (n / 2);
    }
    expect(inside).toBe(true);
    // Limits are five standard deviations of each mean.
    expect(Math.abs(u1 - 1 / 2)).toBeLessThan(5 * Math.sqrt(1 / 12 / n));
    expect(Math.abs(u2 - 1 / 3)).toBeLessThan(5 * Math.sqrt(4 / 45 / n));
    expect(Math.abs(z1)).toBeLessThan(5 * Math.sqrt(1 / n));
    expect(Math.abs(z2 - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
    expect(Math.abs(z4 - 3)).toBeLessThan(5 * Math.sqrt(96 / n));
    expect(Math.abs(cross)).toBeLessThan(5 * Math.sqrt(2 / n));
  });

  test("fills ten million values in seconds", () => {
    const stream = randomStream(1, "speed");
    const started = performance.now();
    let sum = 0;
    for (let i = 0; i < 10_000_000; i++) sum += stream.uniform(i);
    expect(Math.abs(sum / 1e7 - 0.5)).toBeLessThan(5e-4);
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test("refuses seeds and indexes it cannot tell apart", () => {
    for (const seed of [-1, 0.5, Number.NaN, 2 ** 53]) {
      expect(() => randomStream(seed, "x")).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    }
    const stream = randomStream(1, "x");
    for (const [index, row] of [
      [-1, 0],
      [0.5, 0],
      [2 ** 34, 0],
      [0, -1],
      [0, 2 ** 32],
    ] as const) {
      expect(() => stream.u32(index, row)).toThrow(expect.objectContaining({ code: "OP_ARGUMENT" }));
    }
  });
});

describe("permutation", () => {
  test("holds each number once and is a function of seed, name and n", () => {
    fc.assert(
      fc.property(fc.nat(), fc.string(), fc.integer({ min: 0, max: 200 }), (seed, name, n) => {
        const order = permutation(randomStream(seed, name), n);
        expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
        expect(permutation(randomStream(seed, name), n)).toEqual(order);
      }),
    );
  });

  test("gives each of the 24 orders of four about equally often", () => {
    const counts = new Map<string, number>();
    const draws = 24_000;
    for (let i = 0; i < draws; i++) {
      const key = permutation(randomStream(1, `draw ${i}`), 4).join("");
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(24);
    const expected = draws / 24;
    const chiSquare = [...counts.values()].reduce((sum, c) => sum + (c - expected) ** 2 / expected, 0);
    expect(chiSquare).toBeLessThan(58); // the 0.9999 quantile with 23 degrees of freedom is 57.3
  });
});
