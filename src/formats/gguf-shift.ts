// Gemma's norms multiply by 1 + w; llama.cpp stores that sum.

import { type FloatDType, toF32 } from "./float-convert.ts";
import { bytesOf, type StoredTensor } from "./safetensors.ts";
import { DTYPE_BITS } from "./safetensors-header.ts";

/** The tensor in F32 with a number added to every value. */
export function shifted(tensor: StoredTensor, by: number): StoredTensor {
  const stored = tensor.dtype as FloatDType;
  const size = DTYPE_BITS[stored] / 8;
  const bytes = (4 * tensor.bytes) / size;
  return {
    ...tensor,
    dtype: "F32",
    bytes,
    read: async (offset = 0, length = bytes - offset) => {
      const first = Math.floor(offset / 4);
      const end = Math.ceil((offset + length) / 4);
      const values = toF32(stored, await tensor.read(first * size, (end - first) * size));
      const skipped = offset - 4 * first;
      return bytesOf(values.map((value) => value + by)).subarray(skipped, skipped + length);
    },
  };
}
