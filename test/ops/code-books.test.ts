import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  dynamicMap,
  FP4,
  fourBitCode,
  NF4,
  NF4_MIDPOINTS,
  nearestLevel,
  unsignedDynamicMap,
} from "../../src/ops/code-books.ts";
import { decodeWeight, type FourBitWeight } from "../../src/ops/frozen-weight.ts";
import { OPS } from "../../src/ops/index.ts";
import { hostTensor, readMatrix } from "../../src/tensor/host.ts";

const f32 = Math.fround;

// Constants of bitsandbytes (csrc/kernels.cu), as decimals of its source.
const NF4_VALUES = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
];
const NF4_THRESHOLDS = [
  -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984,
  -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
  0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
];

describe("nf4", () => {
  it("has the 16 levels of bitsandbytes to the bit", () => {
    expect([...NF4]).toEqual(NF4_VALUES.map(f32));
  });

  it("has its 15 thresholds to the bit", () => {
    expect([...NF4_MIDPOINTS]).toEqual(NF4_THRESHOLDS.map(f32));
  });

  it("gives a tie to the lower level, and the next f32 to the upper one", () => {
    for (const [i, tie] of NF4_MIDPOINTS.entries()) {
      expect(fourBitCode("nf4", tie)).toBe(i);
      expect(fourBitCode("nf4", nextUp(tie))).toBe(i + 1);
    }
  });

  it("codes every level as itself", () => {
    expect([...NF4].map((level) => fourBitCode("nf4", level))).toEqual([...NF4.keys()]);
  });
});

describe("fp4", () => {
  it("has the levels of bitsandbytes", () => {
    const magnitudes = [0, 0.005208333333, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25].map(f32);
    expect([...FP4].map(Math.abs)).toEqual([...magnitudes, ...magnitudes]);
    expect([...FP4].map((level) => Object.is(level, -0) || level < 0)).toEqual([...FP4.keys()].map((i) => i >= 8));
  });

  it("codes every level but −0 as itself", () => {
    for (const [i, level] of FP4.entries()) expect(fourBitCode("fp4", level)).toBe(i === 8 ? 0 : i);
  });

  it("gives a tie to the smaller magnitude", () => {
    expect(fourBitCode("fp4", f32(0.0859375))).toBe(1);
    expect(fourBitCode("fp4", -f32(0.0859375))).toBe(9);
    expect(fourBitCode("fp4", nextUp(f32(0.0859375)))).toBe(6);
  });
});

describe("the dynamic map", () => {
  const map = dynamicMap();

  it("has 256 ascending values with zero at 127", () => {
    expect(map.length).toBe(256);
    for (let i = 1; i < 256; i++) expect(map[i]!).toBeGreaterThan(map[i - 1]!);
    expect(map[127]).toBe(0);
    expect(map[255]).toBe(1);
  });

  it("runs from −0.99296874, with ±5.5e-7 around zero", () => {
    expect(map[0]).toBe(f32(-0.99296874));
    expect(map[126]).toBeCloseTo(-5.5e-7, 13);
    expect(map[128]).toBeCloseTo(5.5e-7, 13);
  });

  it("is bitsandbytes' own, as is the unsigned one (create_dynamic_map of 0.50.2, hashed as little-endian f32)", () => {
    const hash = (values: Float32Array) => createHash("sha256").update(new Uint8Array(values.buffer)).digest("hex");
    expect(hash(map)).toBe("e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
    expect(hash(unsignedDynamicMap())).toBe("305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398");
  });

  it("is symmetric but for its 1", () => {
    for (let i = 1; i <= 127; i++) expect(map[127 - i]).toBe(-map[127 + i]!);
  });
});

describe("quantize4bit", () => {
  const quantize = (values: number[], format: "nf4" | "fp4" = "nf4") => {
    const codes = hostTensor("u8", 1, Math.ceil(values.length / 2));
    const absmax = hostTensor("f32", 1, Math.ceil(values.length / 64));
    OPS.quantize4bit.reference({ w: hostTensor("f32", 1, values.length, values), codes, absmax, format });
    return { codes: [...readMatrix(codes)], absmax: [...readMatrix(absmax)] };
  };

  it("puts the first value in the high nibble and pads an odd count with zero", () => {
    expect(quantize([1, -1, 0.5])).toEqual({ codes: [0xf0, 0xc7], absmax: [1] });
  });

  it("codes an all-zero block as zero", () => {
    expect(quantize([0, -0])).toEqual({ codes: [0x77], absmax: [0] });
    expect(quantize([0, -0], "fp4")).toEqual({ codes: [0x00], absmax: [0] });
  });

  it("gives a short last block its own scale", () => {
    const values = [...Array.from({ length: 64 }, () => 4), 0.25, -0.125];
    expect(quantize(values).absmax).toEqual([4, 0.25]);
  });
});

describe("double quantisation", () => {
  it("decodes scales as map·absmax2 + offset, rounded after each step", () => {
    const blocks = 300;
    const codes = hostTensor(
      "u8",
      1,
      blocks,
      Float64Array.from({ length: blocks }, (_, i) => i % 256),
    );
    const absmax2 = hostTensor("f32", 1, 2, [0.3, 0.7]);
    const map = hostTensor("f32", 1, 256, dynamicMap());
    const one = hostTensor("u8", 1, blocks * 32, new Float64Array(blocks * 32).fill(0xff));
    const scales = { kind: "double", codes, absmax2, map, offset: 0.1 } as const;
    const weight: FourBitWeight = { format: "nf4", rows: blocks, cols: 64, codes: one, scales };
    const values = decodeWeight(weight);
    for (const block of [0, 127, 255, 256, 299]) {
      const first = f32(dynamicMap()[block % 256]! * f32(block < 256 ? 0.3 : 0.7));
      expect(values[block * 64 + 5]).toBe(f32(first + f32(0.1)));
    }
  });

  it("comes back within half a step of the map", () => {
    const scales = Float64Array.from({ length: 700 }, (_, i) => f32(0.05 + 0.04 * Math.abs(Math.sin(i))));
    const map = dynamicMap();
    const args = {
      absmax: hostTensor("f32", 1, 700, scales),
      map: hostTensor("f32", 1, 256, map),
      codes: hostTensor("u8", 1, 700),
      absmax2: hostTensor("f32", 1, 3),
      offset: hostTensor("f32", 1, 1),
    };
    OPS.quantizeScales.reference(args);
    const offset = readMatrix(args.offset)[0]!;
    const largest = readMatrix(args.absmax2);
    expect(offset).toBeCloseTo(scales.reduce((a, b) => a + b) / 700, 7);
    for (const [i, code] of readMatrix(args.codes).entries()) {
      const error = Math.abs(map[code]! * largest[Math.floor(i / 256)]! + offset - scales[i]!);
      // The map's widest gap is 0.9/64 of absmax2.
      expect(error).toBeLessThanOrEqual((largest[Math.floor(i / 256)]! * 0.9) / 64 / 2 + 1e-7);
    }
  });
});

it("nearestLevel counts thresholds below a value, whatever its place", () => {
  const thresholds = Float32Array.of(-1, 0, 2);
  expect([-2, -1, -0.5, 0, 1, 2, 3].map((x) => nearestLevel(thresholds, x))).toEqual([0, 0, 1, 1, 2, 2, 3]);
});

function nextUp(value: number): number {
  const bits = new Int32Array(Float32Array.of(value).buffer);
  bits[0]! += value > 0 ? 1 : -1;
  return new Float32Array(bits.buffer)[0]!;
}
