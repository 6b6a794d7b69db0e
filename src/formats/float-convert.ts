// Stored little-endian numbers → f32 or bf16, in bulk. f16 goes through tables of its 65,536 values; f32 → bf16 rounds to
// nearest even. The machine must be little-endian, as every machine that Node runs on here is.

/** Dtypes of weights that models come in. */
export type FloatDType = "F64" | "F32" | "F16" | "BF16";

export const isFloat = (dtype: string): dtype is FloatDType =>
  dtype === "F64" || dtype === "F32" || dtype === "F16" || dtype === "BF16";

/** Stored bytes → f32 values; exact but for F64, which is rounded to nearest even. */
export function toF32(dtype: FloatDType, bytes: Uint8Array): Float32Array {
  switch (dtype) {
    case "F32":
      return words(bytes, Float32Array);
    case "F64":
      return Float32Array.from(words(bytes, Float64Array));
    case "F16":
      return lookUp(words(bytes, Uint16Array), f16Tables().f32, Float32Array);
    case "BF16":
      return widen(words(bytes, Uint16Array));
  }
}

/** Stored bytes → bf16 words, rounded to nearest even (F64: through f32). NaN stays NaN. */
export function toBf16Words(dtype: FloatDType, bytes: Uint8Array): Uint16Array {
  switch (dtype) {
    case "BF16":
      return words(bytes, Uint16Array);
    case "F16":
      return lookUp(words(bytes, Uint16Array), f16Tables().bf16, Uint16Array);
    case "F32":
    case "F64":
      return narrow(toF32(dtype, bytes));
  }
}

/** f32 values → bf16 words, rounded to nearest even. */
export function narrow(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const b = bits[i]!;
    const isNaN32 = (b & 0x7fffffff) > 0x7f800000;
    out[i] = isNaN32 ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** f32 values → IEEE half words, rounded to nearest even; from 65520 on, infinity. NaN stays NaN. */
export function toF16Words(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const magnitude = bits[i]! & 0x7fffffff;
    out[i] = ((bits[i]! >>> 16) & 0x8000) | halfMagnitude(magnitude, values[i]!);
  }
  return out;
}

const shifted = new Float32Array(1);
const shiftedBits = new Uint32Array(shifted.buffer);

function halfMagnitude(bits: number, value: number): number {
  if (bits > 0x7f800000) return 0x7e00;
  if (bits >= 0x47800000) return 0x7c00;
  if (bits >= 0x38800000) return (bits - 0x38000000 + 0xfff + ((bits >>> 13) & 1)) >>> 13;
  // Below 2⁻¹⁴ halves are multiples of 2⁻²⁴, which is the unit in the last place of f32 at ½: adding ½ rounds to it.
  shifted[0] = Math.abs(value) + 0.5;
  return shiftedBits[0]! - 0x3f000000;
}

/** bf16 words → f32, exact. */
export function widen(words16: Uint16Array): Float32Array {
  const out = new Float32Array(words16.length);
  const bits = new Uint32Array(out.buffer);
  for (let i = 0; i < bits.length; i++) bits[i] = words16[i]! << 16;
  return out;
}

/** Index of the first value that is NaN or infinite as f32, or −1. Looks at exponent bits only, in the stored dtype. */
export function firstNonFinite(dtype: FloatDType, bytes: Uint8Array): number {
  switch (dtype) {
    case "BF16":
      return firstFull16(words(bytes, Uint16Array), 0x7f80);
    case "F16":
      return firstFull16(words(bytes, Uint16Array), 0x7c00);
    case "F32":
      return firstFull(words(bytes, Uint32Array), 0x7f800000);
    case "F64":
      return words(bytes, Float64Array).findIndex((value) => !Number.isFinite(Math.fround(value)));
  }
}

type WordArray = Float64Array | Float32Array | Uint32Array | Uint16Array;
interface WordArrayType<T> {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBufferLike, offset: number, length: number): T;
}

/** A typed view of the bytes; a copy only where they are not aligned. */
function words<T extends WordArray>(bytes: Uint8Array, type: WordArrayType<T>): T {
  const size = type.BYTES_PER_ELEMENT;
  const aligned = bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
  return new type(aligned.buffer, aligned.byteOffset, bytes.length / size);
}

function firstFull(bits: Uint32Array | Uint16Array, exponent: number, from = 0): number {
  for (let i = from; i < bits.length; i++) if ((bits[i]! & exponent) === exponent) return i;
  return -1;
}

/** Halves looked at in one go. */
const STRETCH = 4096;

/** `firstFull`, two halves at a time: what an exponent lacks, plus 0x7fff, sets the half's top bit unless it lacks nothing. */
function firstFull16(halves: Uint16Array, exponent: number): number {
  if (halves.byteOffset % 4 !== 0) return firstFull(halves, exponent);
  const pairs = new Int32Array(halves.buffer, halves.byteOffset, halves.length >> 1);
  const both = exponent | (exponent << 16);
  for (let at = 0; at < pairs.length; at += STRETCH / 2) {
    let tops = -1;
    const end = Math.min(pairs.length, at + STRETCH / 2);
    for (let i = at; i < end; i++) tops &= ((~pairs[i]! & both) + 0x7fff7fff) | 0;
    if ((tops & 0x80008000) !== (0x80008000 | 0)) return firstFull(halves, exponent, 2 * at);
  }
  return firstFull(halves, exponent, 2 * pairs.length);
}

function lookUp<T extends Float32Array | Uint16Array>(halves: Uint16Array, table: T, type: new (n: number) => T): T {
  const out = new type(halves.length);
  for (let i = 0; i < out.length; i++) out[i] = table[halves[i]!]!;
  return out;
}

interface HalfTables {
  readonly f32: Float32Array;
  readonly bf16: Uint16Array;
}
let tables: HalfTables | null = null;

function f16Tables(): HalfTables {
  if (!tables) {
    const f32 = Float32Array.from({ length: 0x10000 }, (_, bits) => halfToFloat(bits));
    tables = { f32, bf16: narrow(f32) };
  }
  return tables;
}

/** The values of all 65,536 halves, by their bits. */
export const halfTable = (): Float32Array => f16Tables().f32;

/** IEEE half: 1 sign, 5 exponent (bias 15), 10 mantissa bits. */
function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 0x3ff;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}
