import { expect, test } from "vitest";
import { firstNonFinite, narrow, toBf16Words, toF16Words, toF32, widen } from "../../src/formats/float-convert.ts";
import { bytesOf } from "../../src/formats/safetensors.ts";
import { fromBf16, toBf16 } from "../../src/tensor/dtype.ts";

const ALL_16 = Uint16Array.from({ length: 0x10000 }, (_, i) => i);

/** The numbers below `count` for which `holds` is false. */
const wrong = (count: number, holds: (i: number) => boolean): number[] =>
  Array.from({ length: count }, (_, i) => i).filter((i) => !holds(i));

test("f16: known values, and every finite one survives a trip through its definition", () => {
  const known: [number, number][] = [
    [0x0000, 0],
    [0x0001, 2 ** -24],
    [0x03ff, 1023 * 2 ** -24],
    [0x0400, 2 ** -14],
    [0x3555, 0.333251953125],
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x7c00, Number.POSITIVE_INFINITY],
    [0xfc00, Number.NEGATIVE_INFINITY],
  ];
  for (const [bits, value] of known) expect(toF32("F16", bytesOf(Uint16Array.of(bits)))[0]).toBe(value);
  const all = toF32("F16", bytesOf(ALL_16));
  expect(Object.is(all[0x8000], -0)).toBe(true);
  // Ascending over the positive halves, with steps of one unit in the last place.
  const step = (i: number) => 2 ** (Math.max(1, (i - 1) >> 10) - 25);
  expect(wrong(0x7c00, (i) => i === 0 || all[i]! - all[i - 1]! === step(i))).toEqual([]);
  expect(Number.isNaN(all[0x7e00])).toBe(true);
});

test("f32 → f16: every half survives, ties go to the even neighbour, and what is beyond half a unit is infinite", () => {
  const all = toF32("F16", bytesOf(ALL_16));
  const back = toF16Words(all);
  expect(wrong(0x10000, (i) => back[i] === i || (Number.isNaN(all[i]) && (back[i]! & 0x7fff) > 0x7c00))).toEqual([]);
  // Between two neighbours: the middle, and a hair to either side of it. 65504 + 16 is the middle to the next power.
  const at = (x: number) => toF16Words(Float32Array.of(x))[0]!;
  const even = (i: number) => (i % 2 === 0 ? i : i + 1);
  expect(
    wrong(0x7bff, (i) => {
      const middle = (all[i]! + all[i + 1]!) / 2;
      const hair = middle * 2 ** -20;
      return at(middle) === even(i) && at(middle - hair) === i && at(middle + hair) === i + 1;
    }),
  ).toEqual([]);
  expect([at(65519.99), at(65520), at(-65520), at(1e-9), at(-1e-9)]).toEqual([0x7bff, 0x7c00, 0xfc00, 0, 0x8000]);
});

test("bf16 ↔ f32 agrees with the scalar definition on every bf16 and on the neighbours of rounding ties", () => {
  const wide = widen(ALL_16);
  expect(wrong(wide.length, (i) => Object.is(wide[i], fromBf16(i)))).toEqual([]);
  const bits = Uint32Array.from({ length: 0x40000 }, (_, i) => ((i >> 2) << 16) | [0x7fff, 0x8000, 0x8001, 0]![i & 3]!);
  const values = new Float32Array(bits.buffer);
  const got = narrow(values);
  expect(wrong(values.length, (i) => Number.isNaN(values[i]) || got[i] === toBf16(values[i]!))).toEqual([]);
  expect(narrow(Float32Array.of(Number.NaN))[0]! & 0x7fff).toBeGreaterThan(0x7f80);
});

test("unaligned bytes are read, F64 is rounded", () => {
  const bytes = new Uint8Array(9);
  bytes.set(bytesOf(Float64Array.of(0.1)), 1);
  expect(toF32("F64", bytes.subarray(1))[0]).toBe(Math.fround(0.1));
  expect(toBf16Words("F64", bytes.subarray(1))[0]).toBe(toBf16(0.1));
});

test("the first NaN or infinity is found in every dtype; large finite numbers are not", () => {
  expect(firstNonFinite("BF16", bytesOf(Uint16Array.of(0x7f7f, 0xff7f, 0x7f80)))).toBe(2);
  expect(firstNonFinite("F16", bytesOf(Uint16Array.of(0x7bff, 0xfc00)))).toBe(1);
  expect(firstNonFinite("F32", bytesOf(Float32Array.of(3e38, Number.NaN)))).toBe(1);
  for (const [dtype, bits] of [
    ["BF16", 0x7f80],
    ["BF16", 0xffff],
    ["F16", 0x7c00],
    ["F16", 0xfe01],
  ] as const)
    for (const start of [0, 1])
      for (const length of [10_001, 8192])
        for (const index of [0, 1, 4095, 4096, 8191, length - 1]) {
          const all = new Uint16Array(start + length).fill(dtype === "BF16" ? 0xff7f : 0xfbff);
          all[start + index] = bits;
          expect(firstNonFinite(dtype, bytesOf(all.subarray(start)))).toBe(index);
          all[start + index] = 0;
          expect(firstNonFinite(dtype, bytesOf(all.subarray(start)))).toBe(-1);
        }
  expect(firstNonFinite("F64", bytesOf(Float64Array.of(3e38, 1)))).toBe(-1);
  expect(firstNonFinite("F64", bytesOf(Float64Array.of(1, 1e308)))).toBe(1);
});
