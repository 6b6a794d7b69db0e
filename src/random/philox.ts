// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
// It is a bijection of a 128-bit counter under a 64-bit key, without state: the value at an index is the same whatever
// was drawn before it, so that threads, micro-batch splits and resumed runs cannot change it.
//
// Streams are named. The key of Philox is the seed, the upper half of its counter the hash of the stream's name, the
// lower half the index: two seeds never share a block, and two names only if their 64-bit hashes collide.

import { QdlError } from "../errors.ts";

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

/** High 32 bits of the product of two unsigned 32-bit numbers, from 16-bit halves (a double holds only 53 bits). */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  // Neither sum reaches 2^32: (2^16−1)² + 2^16−1 = 2^32 − 2^16. Math.imul gives signed words; `>>>` reads them unsigned.
  const middle = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) >>> 0;
  const carry = (Math.imul(aLow, bHigh) + (middle & 0xffff)) >>> 0;
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16)) | 0;
}

/** Writes the four words of counter (c0, c1, c2, c3) under key (k0, k1) to `out`. All words are unsigned 32-bit. */
export function philox4x32(
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
  out: Uint32Array,
): void {
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + WEYL_0) | 0;
    k1 = (k1 + WEYL_1) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

const WORD = 0x1_0000_0000;
const MAX_INDEX = 4 * WORD;

/**
 * Random values at an index. Every method is a pure function of (seed, name, index): order of calls and of creation do
 * not matter. `index` is a whole number below 2^34, `row` one below 2^32; reading ascending indexes of a row is fast.
 */
export interface RandomStream {
  readonly seed: number;
  readonly name: string;
  /** A word, uniform over 0 … 2^32−1. */
  u32(index: number, row?: number): number;
  /** (word + ½) / 2^32: uniform in the open interval (0, 1), symmetric about ½. Rounding it to f32 can give 1. */
  uniform(index: number, row?: number): number;
  /**
   * Standard normal, by Box–Muller from the words 2⌊index/2⌋ and the next: even indexes take the cosine, odd ones the
   * sine. It goes through Math.log, cos and sin, so the last bit may differ between JavaScript engines.
   */
  normal(index: number, row?: number): number;
  /** A whole number in 0 … n−1: ⌊n·u⌋ with the 53-bit fraction u of words 2·index and 2·index+1. Biased by < n/2^53. */
  below(n: number, index: number, row?: number): number;
}

/** FNV-1a with 64 bits over the UTF-8 bytes of `text`, as [low word, high word]. */
export function hashName(text: string): [number, number] {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return [Number(hash & 0xffffffffn), Number(hash >> 32n)];
}

/** The stream called `name` under `seed`, a whole number from 0 to 2^53−1. */
export function randomStream(seed: number, name: string): RandomStream {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new QdlError("CONFIG_INVALID", `random stream: seed is ${seed}, expected a whole number from 0 to 2^53−1`, {
      hint: "Give --seed a whole number such as 1.",
      details: { seed },
    });
  }
  return new PhiloxStream(seed, name);
}

class PhiloxStream implements RandomStream {
  readonly seed: number;
  readonly name: string;
  readonly #key: readonly [number, number];
  readonly #hash: readonly [number, number];
  // The block read last. It only saves work: the four words of a block are usually asked for one after another.
  readonly #words = new Uint32Array(4);
  #block = -1;
  #row = -1;

  constructor(seed: number, name: string) {
    this.seed = seed;
    this.name = name;
    this.#key = [seed % WORD, Math.floor(seed / WORD)];
    this.#hash = hashName(name);
  }

  u32(index: number, row = 0): number {
    const block = Math.floor(index / 4);
    if (block !== this.#block || row !== this.#row) this.#load(block, row, index);
    return this.#words[index & 3]!;
  }

  uniform(index: number, row = 0): number {
    return (this.u32(index, row) + 0.5) / WORD;
  }

  normal(index: number, row = 0): number {
    const even = index - (index % 2);
    const radius = Math.sqrt(-2 * Math.log(this.uniform(even, row)));
    const angle = 2 * Math.PI * this.uniform(even + 1, row);
    return radius * (index === even ? Math.cos(angle) : Math.sin(angle));
  }

  below(n: number, index: number, row = 0): number {
    const high = this.u32(2 * index, row) >>> 5; // 27 bits
    const low = this.u32(2 * index + 1, row) >>> 6; // 26 bits
    return Math.floor(((high * 0x400_0000 + low) / 2 ** 53) * n);
  }

  #load(block: number, row: number, index: number): void {
    if (
      !(Number.isInteger(index) && index >= 0 && index < MAX_INDEX && Number.isInteger(row) && row >= 0 && row < WORD)
    ) {
      throw new QdlError(
        "OP_ARGUMENT",
        `random stream ${this.name}: index is ${index}, row ${row}, expected whole numbers below 2^34 and 2^32`,
        { details: { name: this.name, index, row } },
      );
    }
    philox4x32(block, row, this.#hash[0], this.#hash[1], this.#key[0], this.#key[1], this.#words);
    this.#block = block;
    this.#row = row;
  }
}

/**
 * A permutation of 0 … n−1, each of the n! equally likely up to the generator: Fisher–Yates from the end, where position
 * i = n−1 … 1 is swapped with position stream.below(i + 1, i). A pure function of the stream's seed and name, and of n.
 */
export function permutation(stream: RandomStream, n: number): Int32Array {
  const order = Int32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const other = stream.below(i + 1, i);
    const kept = order[i]!;
    order[i] = order[other]!;
    order[other] = kept;
  }
  return order;
}
