// Tables of structures in device memory, for kernels that work on lists of tensors. One region serves all of them: it is
// written in the order of the stream, so a table lies there from the writing until the kernels enqueued next have read it.

import type { Tensor } from "../../tensor/tensor.ts";
import { addressOf } from "./buffer.ts";
import { type Driver, Uncapturable } from "./driver.ts";
import { out64 } from "./native-calls.ts";
import type { Transfers } from "./transfers.ts";

const WORD = 2 ** 32;
const FIRST_BYTES = 64 << 10;

/** Structures one after another, of 8-byte members, or of pairs of 4-byte members. */
export class Table {
  #words = new Uint32Array(256);
  #at = 0;

  get bytes(): Uint8Array {
    return new Uint8Array(this.#words.buffer, 0, 4 * this.#at);
  }

  get words(): Uint32Array {
    return this.#words.subarray(0, this.#at);
  }

  /** Device addresses of first elements; 0 for null. */
  tensors(...tensors: readonly (Tensor | null)[]): this {
    return this.longs(...tensors.map((tensor) => (tensor ? addressOf(tensor) : 0)));
  }

  longs(...values: readonly number[]): this {
    for (const value of values) this.integers(value, Math.floor(value / WORD));
    return this;
  }

  integers(...values: readonly number[]): this {
    if (this.#at + values.length > this.#words.length) {
      const grown = new Uint32Array(2 * (this.#at + values.length));
      grown.set(this.#words);
      this.#words = grown;
    }
    for (const value of values) this.#words[this.#at++] = value;
    return this;
  }

  doubles(...values: readonly number[]): this {
    return this.integers(...new Uint32Array(Float64Array.from(values).buffer));
  }

  float(value: number): this {
    return this.integers(...new Uint32Array(Float32Array.of(value).buffer));
  }
}

export class TableMemory {
  readonly #driver: Driver;
  readonly #transfers: Transfers;
  readonly #stream: number;
  readonly #isCapturing: () => boolean;
  #address = 0;
  #bytes = 0;

  constructor(driver: Driver, transfers: Transfers, stream: number, isCapturing: () => boolean) {
    this.#driver = driver;
    this.#transfers = transfers;
    this.#stream = stream;
    this.#isCapturing = isCapturing;
  }

  /** Writes a table and returns its address, which holds for what is enqueued until the next one is written. */
  put({ bytes }: Table): number {
    if (this.#isCapturing()) throw new Uncapturable("tables are written anew at every run");
    if (bytes.byteLength > this.#bytes) {
      this.close();
      this.#address = out64((box) => this.#driver.checked.memAlloc(box, Math.max(FIRST_BYTES, 2 * bytes.byteLength)));
      this.#bytes = Math.max(FIRST_BYTES, 2 * bytes.byteLength);
    }
    this.#transfers.write(this.#address, bytes);
    return this.#address;
  }

  close(): void {
    if (this.#address === 0) return;
    this.#driver.raw.streamSynchronize(this.#stream);
    this.#driver.raw.memFree(this.#address);
    this.#address = 0;
    this.#bytes = 0;
  }
}
