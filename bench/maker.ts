// Tensors of a benchmark case on the CPU backend: repeatable values, freed together.

import type { CpuBackend } from "../src/backends/cpu/cpu.ts";
import type { ArgsOf } from "../src/ops/index.ts";
import { BYTES_PER_ELEMENT, type DType, toBf16 } from "../src/tensor/dtype.ts";
import { matrix, type Tensor } from "../src/tensor/tensor.ts";

export class Maker {
  readonly dtype: "f32" | "bf16";
  readonly #device: CpuBackend;
  readonly #tensors: Tensor[] = [];

  constructor(device: CpuBackend, dtype: "f32" | "bf16") {
    this.#device = device;
    this.dtype = dtype;
  }

  empty(dtype: DType, rows: number, cols: number): Tensor {
    const buffer = this.#device.alloc(rows * cols * BYTES_PER_ELEMENT[dtype], "bench");
    const tensor = matrix(buffer, dtype, rows, cols);
    this.#tensors.push(tensor);
    return tensor;
  }

  /** Repeatable values from −1 to 1. */
  floats(rows: number, cols: number, dtype: "f32" | "bf16" = this.dtype): Tensor {
    const tensor = this.empty(dtype, rows, cols);
    const period = Float32Array.from({ length: 1021 }, (_, i) => ((i * 617) % 1021) / 510.5 - 1);
    const source = dtype === "f32" ? period : Uint16Array.from(period, toBf16);
    const data = dtype === "f32" ? new Float32Array(rows * cols) : new Uint16Array(rows * cols);
    for (let i = 0; i < data.length; i++) data[i] = source[i % 1021]!;
    return this.#fill(tensor, data);
  }

  integers(rows: number, value: (i: number) => number): Tensor {
    return this.#fill(
      this.empty("i32", rows, 1),
      Int32Array.from({ length: rows }, (_, i) => value(i)),
    );
  }

  nf4(rows: number, cols: number): ArgsOf<"dequantize">["weight"] {
    const codes = this.empty("u8", 1, (rows * cols) / 2);
    this.#fill(
      codes,
      Uint8Array.from({ length: codes.cols }, (_, i) => (i * 167) & 255),
    );
    return {
      format: "nf4",
      rows,
      cols,
      codes,
      scales: { kind: "plain", absmax: this.floats(1, Math.ceil((rows * cols) / 64), "f32") },
    };
  }

  forward(rows: number, k: number, outs: readonly number[], rank: number): ArgsOf<"adaptedLinears"> {
    const some = (make: () => Tensor) => outs.map(() => (rank > 0 ? make() : null));
    return {
      x: this.floats(rows, k),
      weights: outs.map((m) => this.nf4(m, k)),
      biases: outs.map(() => null),
      a: some(() => this.floats(64, k)),
      b: outs.map((m) => (rank > 0 ? this.floats(64, m) : null)),
      t: some(() => this.floats(rows, 64)),
      y: outs.map((m) => this.empty(this.dtype, rows, m)),
      ranges: rank > 0 ? [{ from: 0, to: rows, rank, scale: 2 }] : [],
    };
  }

  backward(rows: number, k: number, outs: readonly number[], rank: number): ArgsOf<"adaptedLinearsBackward"> {
    const { x, weights, a, b, t, ranges } = this.forward(rows, k, outs, rank);
    return {
      x,
      weights,
      a,
      b,
      t,
      ranges,
      dy: outs.map((m) => this.floats(rows, m)),
      dx: this.empty(this.dtype, rows, k),
      da: outs.map(() => (rank > 0 ? this.empty("f32", 64, k) : null)),
      db: outs.map((m) => (rank > 0 ? this.empty("f32", 64, m) : null)),
    };
  }

  free(): void {
    for (const tensor of this.#tensors) tensor.buffer.dispose();
  }

  #fill(tensor: Tensor, data: ArrayBufferView): Tensor {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#device.write(tensor.buffer as never, 0, bytes);
    return tensor;
  }
}
