// A stored matrix read as its transpose: GPT-2 keeps its weights [in, out]. Read whole, once, when its first byte is asked for;
// it is the caller's to have room for one such matrix.

import type { StoredTensor } from "../formats/safetensors.ts";
import { DTYPE_BITS } from "../formats/safetensors-header.ts";

/** [cols, rows] → [rows, cols], the bytes of each element as they are. */
export function transposedTensor(tensor: StoredTensor): StoredTensor {
  let whole: Promise<Uint8Array> | null = null;
  const [rows = 0, cols = 0] = [...tensor.shape].reverse();
  return {
    ...tensor,
    shape: [rows, cols],
    async read(from = 0, length = tensor.bytes - from, into) {
      whole ??= tensor.read().then((bytes) => transpose(bytes, rows, cols, DTYPE_BITS[tensor.dtype] / 8));
      const part = (await whole).subarray(from, from + length);
      if (from + length === tensor.bytes) whole = null;
      if (!into) return part;
      into.set(part);
      return into.subarray(0, part.length);
    },
  };
}

function transpose(stored: Uint8Array, rows: number, cols: number, size: number): Uint8Array {
  const out = new Uint8Array(stored.length);
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++)
      for (let byte = 0; byte < size; byte++)
        out[(row * cols + col) * size + byte] = stored[(col * rows + row) * size + byte]!;
  return out;
}
