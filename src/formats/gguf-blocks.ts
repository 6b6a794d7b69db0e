// Blocks of ggml's quantised types → f32, value for value what ggml's dequantize_row_* gives. The products of scales and
// codes have at most 24 bits but for Q6_K's, so that one rounding, on storing as f32, is the rounding that ggml does.
// Layouts: ggml-common.h; each function below names the parts of its block in their order.

import { halfTable } from "./float-convert.ts";
import { type PlainType, TENSOR_KINDS, type TensorType } from "./gguf-types.ts";

export type BlockType = Exclude<TensorType, PlainType>;

/** Decodes the block at `at` of `b` into y[to…]. */
type Decode = (b: Uint8Array, at: number, y: Float32Array, to: number) => void;

/** Whole blocks → their values. `y` holds exactly as many. */
export function dequantizeBlocks(type: BlockType, bytes: Uint8Array, y: Float32Array): void {
  const { values, bytes: blockBytes } = TENSOR_KINDS[type];
  const decode = DECODERS[type];
  for (let at = 0, to = 0; at < bytes.length; at += blockBytes, to += values) decode(bytes, at, y, to);
}

const f16 = (b: Uint8Array, at: number): number => halfTable()[b[at]! | (b[at + 1]! << 8)]!;
const i8 = (byte: number): number => (byte << 24) >> 24;

/** f16 d; 16 bytes of two 4-bit codes: value 0..15 in the low halves, 16..31 in the high ones. */
const q40: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  for (let i = 0; i < 16; i++) {
    const byte = b[at + 2 + i]!;
    y[to + i] = d * ((byte & 15) - 8);
    y[to + 16 + i] = d * ((byte >> 4) - 8);
  }
};

/** f16 d, m; codes as Q4_0. */
const q41: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  const m = f16(b, at + 2);
  for (let i = 0; i < 16; i++) {
    const byte = b[at + 4 + i]!;
    y[to + i] = d * (byte & 15) + m;
    y[to + 16 + i] = d * (byte >> 4) + m;
  }
};

/** f16 d; u32 of the codes' fifth bits; low four bits as Q4_0. */
const q50: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  for (let i = 0; i < 16; i++) {
    const byte = b[at + 6 + i]!;
    y[to + i] = d * (((byte & 15) | (bit(b, at + 2, i) << 4)) - 16);
    y[to + 16 + i] = d * (((byte >> 4) | (bit(b, at + 2, 16 + i) << 4)) - 16);
  }
};

/** f16 d, m; then as Q5_0. */
const q51: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  const m = f16(b, at + 2);
  for (let i = 0; i < 16; i++) {
    const byte = b[at + 8 + i]!;
    y[to + i] = d * ((byte & 15) | (bit(b, at + 4, i) << 4)) + m;
    y[to + 16 + i] = d * ((byte >> 4) | (bit(b, at + 4, 16 + i) << 4)) + m;
  }
};

/** Bit i of the bits that begin at byte `at`. */
const bit = (b: Uint8Array, at: number, i: number): number => (b[at + (i >> 3)]! >> (i & 7)) & 1;

/** f16 d; 32 signed bytes. */
const q80: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  for (let i = 0; i < 32; i++) y[to + i] = d * i8(b[at + 2 + i]!);
};

/** The values of IQ4_NL's codes. */
const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;

const iq4nl: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  for (let i = 0; i < 16; i++) {
    const byte = b[at + 2 + i]!;
    y[to + i] = d * IQ4[byte & 15]!;
    y[to + 16 + i] = d * IQ4[byte >> 4]!;
  }
};

/** 16 bytes of scale (low) and minimum (high); 64 bytes of 2-bit codes; f16 d, dmin. Sub-blocks of 16 values. */
const q2k: Decode = (b, at, y, to) => {
  const d = f16(b, at + 80);
  const dmin = f16(b, at + 82);
  for (let sub = 0; sub < 16; sub++) {
    const scale = b[at + sub]!;
    const dl = d * (scale & 15);
    const ml = dmin * (scale >> 4);
    const { from, shift } = twoBit(sub);
    for (let i = 0; i < 16; i++) y[to + 16 * sub + i] = dl * ((b[at + 16 + from + i]! >> shift) & 3) - ml;
  }
};

/** Where the 2-bit codes of a sub-block of 16 lie: 32 bytes hold 128 values, four to a byte, 32 apart. */
const twoBit = (sub: number) => ({ from: 32 * (sub >> 3) + 16 * (sub & 1), shift: 2 * ((sub >> 1) & 3) });

/** 32 bytes of third bits (0: minus 4); 64 bytes of 2-bit codes; 12 bytes of sixteen 6-bit scales; f16 d. */
const q3k: Decode = (b, at, y, to) => {
  const d = f16(b, at + 108);
  for (let sub = 0; sub < 16; sub++) {
    const low = (b[at + 96 + (sub & 7)]! >> (sub >> 3 ? 4 : 0)) & 15;
    const high = (b[at + 104 + (sub & 3)]! >> (2 * (sub >> 2))) & 3;
    const dl = d * ((low | (high << 4)) - 32);
    const { from, shift } = twoBit(sub);
    const third = at + 16 * (sub & 1);
    for (let i = 0; i < 16; i++) {
      const code = (b[at + 32 + from + i]! >> shift) & 3;
      y[to + 16 * sub + i] = dl * (code - ((b[third + i]! >> (sub >> 1)) & 1 ? 0 : 4));
    }
  }
};

/** Scale and minimum of sub-block j out of the 12 bytes of eight 6-bit pairs at `at`. */
const scaleOf = (b: Uint8Array, at: number, j: number): number =>
  j < 4 ? b[at + j]! & 63 : (b[at + j + 4]! & 15) | ((b[at + j - 4]! >> 6) << 4);
const minimumOf = (b: Uint8Array, at: number, j: number): number =>
  j < 4 ? b[at + j + 4]! & 63 : (b[at + j + 4]! >> 4) | ((b[at + j]! >> 6) << 4);

/** f16 d, dmin; 12 bytes of scales; 128 bytes of 4-bit codes. Sub-blocks of 32 values. */
const q4k: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  const dmin = f16(b, at + 2);
  for (let sub = 0; sub < 8; sub++) {
    const dl = d * scaleOf(b, at + 4, sub);
    const ml = dmin * minimumOf(b, at + 4, sub);
    const from = at + 16 + 32 * (sub >> 1);
    const shift = 4 * (sub & 1);
    for (let i = 0; i < 32; i++) y[to + 32 * sub + i] = dl * ((b[from + i]! >> shift) & 15) - ml;
  }
};

/** f16 d, dmin; 12 bytes of scales; 32 bytes of fifth bits; 128 bytes of low four bits. */
const q5k: Decode = (b, at, y, to) => {
  const d = f16(b, at);
  const dmin = f16(b, at + 2);
  for (let sub = 0; sub < 8; sub++) {
    const dl = d * scaleOf(b, at + 4, sub);
    const ml = dmin * minimumOf(b, at + 4, sub);
    const from = at + 48 + 32 * (sub >> 1);
    const shift = 4 * (sub & 1);
    for (let i = 0; i < 32; i++) {
      const fifth = (b[at + 16 + i]! >> sub) & 1;
      y[to + 32 * sub + i] = dl * (((b[from + i]! >> shift) & 15) | (fifth << 4)) - ml;
    }
  }
};

/** 128 bytes of low four bits; 64 bytes of high two bits; 16 signed scales; f16 d. Sub-blocks of 16 values. */
const q6k: Decode = (b, at, y, to) => {
  const d = f16(b, at + 208);
  for (let part = 0; part < 8; part++) {
    const low = at + 64 * (part >> 2) + 32 * (part & 1);
    const lowShift = 4 * ((part >> 1) & 1);
    const high = at + 128 + 32 * (part >> 2);
    const highShift = 2 * (part & 3);
    for (let i = 0; i < 32; i++) {
      const dl = d * i8(b[at + 192 + 2 * part + (i >> 4)]!);
      const code = ((b[low + i]! >> lowShift) & 15) | (((b[high + i]! >> highShift) & 3) << 4);
      y[to + 32 * part + i] = dl * (code - 32);
    }
  }
};

const DECODERS: Readonly<Record<BlockType, Decode>> = {
  Q4_0: q40,
  Q4_1: q41,
  Q5_0: q50,
  Q5_1: q51,
  Q8_0: q80,
  Q2_K: q2k,
  Q3_K: q3k,
  Q4_K: q4k,
  Q5_K: q5k,
  Q6_K: q6k,
  IQ4_NL: iq4nl,
};
