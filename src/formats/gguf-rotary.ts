// llama.cpp rotates neighbouring pairs of a head, transformers its two halves. For the architecture "llama" the converter
// therefore interleaves the rows of each head of q and k; these functions undo that on reading and do it for writing.
//   GGUF row 2j + t of a head  =  row t·D/2 + j of transformers,  j < D/2, t ∈ {0, 1}

import type { StoredTensor } from "./safetensors.ts";

/** Row of GGUF at which transformers' row `row` lies. */
export function interleavedRow(row: number, headDim: number): number {
  const inHead = row % headDim;
  const half = headDim / 2;
  return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
}

/** Row of transformers that lies at GGUF's row `row`. */
export function halvedRow(row: number, headDim: number): number {
  const inHead = row % headDim;
  return row - inHead + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
}

/** The tensor, of rows [heads·headDim, …], with row r read from row `source(r, headDim)`, which lies in the same head. */
export function permutedRows(
  tensor: StoredTensor,
  headDim: number,
  source: (row: number, headDim: number) => number,
): StoredTensor {
  const rows = tensor.shape[0]!;
  const rowBytes = tensor.bytes / rows;
  const headBytes = headDim * rowBytes;
  return {
    ...tensor,
    read: async (offset = 0, length = tensor.bytes - offset, into) => {
      const end = offset + length;
      const from = Math.floor(offset / headBytes) * headBytes;
      const heads = await tensor.read(from, Math.min(tensor.bytes, Math.ceil(end / headBytes) * headBytes) - from);
      const out = into?.subarray(0, length) ?? new Uint8Array(length);
      for (let at = offset; at < end; ) {
        const row = Math.floor(at / rowBytes);
        const inRow = at - row * rowBytes;
        const count = Math.min(rowBytes - inRow, end - at);
        const place = source(row, headDim) * rowBytes + inRow - from;
        out.set(heads.subarray(place, place + count), at - offset);
        at += count;
      }
      return out;
    },
  };
}
