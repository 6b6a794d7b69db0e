// Stored tensors → device memory, in chunks of a few MiB: read, check, convert, write. Nothing is ever held whole on the host.

import type { Backend } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import { type FloatDType, firstNonFinite, toBf16Words, toF32 } from "../formats/float-convert.ts";
import { bytesOf, type StoredTensor } from "../formats/safetensors.ts";
import { DTYPE_BITS } from "../formats/safetensors-header.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import type { DeviceBuffer } from "../tensor/tensor.ts";

/** Bytes read at a time. */
export const UPLOAD_CHUNK = 4 << 20;

export interface Place {
  readonly buffer: DeviceBuffer;
  /** Bytes from the start of the buffer. */
  readonly offset: number;
}

/** Converts a tensor of floats to `dtype` (rounding to nearest even) and writes it. Throws TENSOR_NONFINITE. */
export async function uploadFloats(backend: Backend, tensor: StoredTensor, to: Place, dtype: "bf16" | "f32") {
  const stored = tensor.dtype as FloatDType;
  const perElement = DTYPE_BITS[stored] / 8;
  for await (const { bytes, at } of chunks(tensor)) {
    requireFinite(tensor, stored, bytes, at / perElement);
    const converted = dtype === "bf16" ? toBf16Words(stored, bytes) : toF32(stored, bytes);
    backend.write(to.buffer, to.offset + (at / perElement) * BYTES_PER_ELEMENT[dtype], bytesOf(converted));
  }
}

/** Writes a tensor's bytes as they are. F32 is checked: it holds scales, and a NaN there would spoil a block. */
export async function uploadBytes(backend: Backend, tensor: StoredTensor, to: Place): Promise<void> {
  for await (const { bytes, at } of chunks(tensor)) {
    if (tensor.dtype === "F32") requireFinite(tensor, "F32", bytes, at / 4);
    backend.write(to.buffer, to.offset + at, bytes);
  }
}

async function* chunks(tensor: StoredTensor): AsyncGenerator<{ bytes: Uint8Array; at: number }> {
  for (let at = 0; at < tensor.bytes; at += UPLOAD_CHUNK)
    yield { bytes: await tensor.read(at, Math.min(UPLOAD_CHUNK, tensor.bytes - at)), at };
}

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
