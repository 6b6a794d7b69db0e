// Arguments of a kernel as the driver wants them: a table of pointers to values. One native block serves all launches, as
// the driver copies the values during the call; a prepared launch is an image of that block and costs one copy and one call.

import type { Tensor } from "../../tensor/tensor.ts";
import { type NativeBlock, nativeBlock } from "../native.ts";
import { addressOf } from "./buffer.ts";

/** The driver takes at most 4 KiB of values. */
const BLOCK_BYTES = 8192;
const WORD = 2 ** 32;

/** Values of one launch in the order of the kernel's parameters. */
export class Arguments {
  /** Two words per 8-byte slot. */
  readonly #words: number[] = [];
  /** The slot of each parameter. */
  readonly #slots: number[] = [];

  /** `const T *`: the tensor's first element; a null pointer for null. */
  tensors(...tensors: readonly (Tensor | null)[]): this {
    for (const tensor of tensors) this.address(tensor ? addressOf(tensor) : 0);
    return this;
  }

  /** A device address. */
  address(value: number): this {
    return this.#slot(value, Math.floor(value / WORD));
  }

  /** `int` or `u32` each. */
  integers(...values: readonly number[]): this {
    for (const value of values) this.#slot(value, 0);
    return this;
  }

  /** `u64` or `i64` ≥ 0 each. */
  longs(...values: readonly number[]): this {
    for (const value of values) this.#slot(value, Math.floor(value / WORD));
    return this;
  }

  /** `float` each. */
  floats(...values: readonly number[]): this {
    for (const value of values) this.#slot(new Uint32Array(Float32Array.of(value).buffer)[0]!, 0);
    return this;
  }

  /** `double` each. */
  doubles(...values: readonly number[]): this {
    for (const value of values) {
      const words = new Uint32Array(Float64Array.of(value).buffer);
      this.#slot(words[0]!, words[1]!);
    }
    return this;
  }

  /** A structure by value, of whole 8-byte units. */
  structure(words: Uint32Array): this {
    this.#slots.push(this.#words.length / 2);
    this.#words.push(...words);
    if (this.#words.length % 2 !== 0) this.#words.push(0);
    return this;
  }

  /** The image of a block at `address`: the table, then the values. */
  image(address: number): Uint32Array {
    const table = this.#slots.length;
    const image = new Uint32Array(2 * table + this.#words.length);
    for (const [i, slot] of this.#slots.entries()) {
      const at = address + 8 * (table + slot);
      image[2 * i] = at;
      image[2 * i + 1] = Math.floor(at / WORD);
    }
    image.set(this.#words, 2 * table);
    return image;
  }

  #slot(low: number, high: number): this {
    this.#slots.push(this.#words.length / 2);
    this.#words.push(low >>> 0, high >>> 0);
    return this;
  }
}

export const kernelArguments = (): Arguments => new Arguments();

/** Room for CUlaunchConfig and one CUlaunchAttribute behind it. */
const CONFIG_BYTES = 128;
const ATTRIBUTE_AT = 56;
const PROGRAMMATIC_STREAM_SERIALIZATION = 6;

export interface LaunchShape {
  readonly grid: readonly [x: number, y: number, z: number];
  readonly threads: readonly [x: number, y: number];
  readonly sharedBytes: number;
  readonly stream: number;
}

/** CUlaunchConfig at `address` for a kernel that may start before the one before it has ended. */
export function earlyConfig(address: number, { grid, threads, sharedBytes, stream }: LaunchShape): Uint32Array {
  const words = new Uint32Array(CONFIG_BYTES / 4);
  const long = (at: number, value: number) => words.set([value, Math.floor(value / WORD)], at / 4);
  words.set([...grid, ...threads, 1, sharedBytes]);
  long(32, stream);
  long(40, address + ATTRIBUTE_AT);
  words[48 / 4] = 1;
  words[ATTRIBUTE_AT / 4] = PROGRAMMATIC_STREAM_SERIALIZATION;
  words[ATTRIBUTE_AT / 4 + 2] = 1;
  return words;
}

/** The native block that launches are copied into. */
export class ArgumentBlock {
  readonly #block: NativeBlock = nativeBlock(BLOCK_BYTES + CONFIG_BYTES);
  readonly #words = new Uint32Array(this.#block.view.buffer);

  get address(): number {
    return this.#block.address;
  }

  /** Where the configuration of an early launch goes: behind all values. */
  get configAddress(): number {
    return this.#block.address + BLOCK_BYTES;
  }

  load(image: Uint32Array): void {
    this.#words.set(image);
  }

  loadConfig(config: Uint32Array): void {
    this.#words.set(config, BLOCK_BYTES / 4);
  }
}
