// Stored tensors → device memory, chunk by chunk: read, check, convert, write. Nothing is ever held whole on the host.

import type { Backend } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import { type FloatDType, firstNonFinite, toBf16Words, toF32 } from "../formats/float-convert.ts";
import { bytesOf, type StoredTensor } from "../formats/safetensors.ts";
import { DTYPE_BITS } from "../formats/safetensors-header.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";
import type { ChunkReader } from "./chunks.ts";
import { Staging } from "./staging.ts";

export interface Place {
  readonly buffer: DeviceBuffer;
  /** Bytes from the start of the buffer. */
  readonly offset: number;
}

export class Uploader {
  readonly #backend: Backend;
  readonly #reader: ChunkReader;
  /** f32 on their way to bf16. */
  readonly #staging: Staging;

  constructor(backend: Backend, reader: ChunkReader) {
    this.#backend = backend;
    this.#reader = reader;
    this.#staging = new Staging(backend, "staging of floats");
  }

  /**
   * Converts a tensor of floats to `dtype` (rounding to nearest even) and writes it, `added` to every value (f32 only).
   * Throws TENSOR_NONFINITE.
   */
  async floats(tensor: StoredTensor, to: Place, dtype: "bf16" | "f32", added = 0): Promise<void> {
    const stored = tensor.dtype as FloatDType;
    for await (const { bytes, at } of this.#reader.chunks(tensor)) {
      const first = at / (DTYPE_BITS[stored] / 8);
      requireFinite(tensor, stored, bytes, first);
      const offset = to.offset + first * BYTES_PER_ELEMENT[dtype];
      if (stored === "F32" && dtype === "bf16") await this.#rounded(bytes, { buffer: to.buffer, offset });
      else {
        const converted = dtype === "bf16" ? toBf16Words(stored, bytes) : sum(toF32(stored, bytes), added);
        this.#backend.write(to.buffer, offset, bytesOf(converted));
      }
    }
  }

  /** Writes a tensor's bytes as they are. F32 is checked: it holds scales, and a NaN there would spoil a block. */
  async bytes(tensor: StoredTensor, to: Place): Promise<void> {
    for await (const { bytes, at } of this.#reader.chunks(tensor)) {
      if (tensor.dtype === "F32") requireFinite(tensor, "F32", bytes, at / 4);
      this.#backend.write(to.buffer, to.offset + at, bytes);
    }
  }

  dispose(): void {
    this.#staging.dispose();
  }

  /** f32 → bf16 on the device, which has all its cores for it. */
  async #rounded(bytes: Uint8Array, { buffer, offset }: Place): Promise<void> {
    const values = bytes.length / 4;
    const x = matrix(await this.#staging.atLeast(bytes.length), "f32", 1, values);
    this.#backend.write(x.buffer, 0, bytes);
    this.#backend.run("cast", { x, y: matrix(buffer, "bf16", 1, values, offset) });
  }
}

const sum = (values: Float32Array, added: number): Float32Array =>
  added === 0 ? values : values.map((value) => value + added);

/** Throws TENSOR_NONFINITE, naming the element: `firstIndex` is that of the chunk. */
export function requireFinite(tensor: StoredTensor, dtype: FloatDType, bytes: Uint8Array, firstIndex: number): void {
  const found = firstNonFinite(dtype, bytes);
  if (found < 0) return;
  const size = DTYPE_BITS[dtype] / 8;
  const value = toF32(dtype, bytes.subarray(found * size, (found + 1) * size))[0];
  const index = firstIndex + found;
  throw new QdlError(
    "TENSOR_NONFINITE",
    `${tensor.file}: ${tensor.name} is ${value} at element ${index}, expected a number`,
    {
      hint: "The checkpoint is damaged or its training diverged; use another one.",
      details: { path: tensor.file, tensor: tensor.name, index },
    },
  );
}
