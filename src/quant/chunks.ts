// The bytes of a stored tensor in chunks of a few MiB. The next chunk is read while the caller works on the one in hand.

import type { StoredTensor } from "../formats/safetensors.ts";

/** Bytes read at a time: a whole number of elements of every dtype and of blocks of 64. */
export const CHUNK_BYTES = 4 << 20;

export interface Chunk {
  /** Good until the chunk after the next is asked for. */
  readonly bytes: Uint8Array;
  /** Bytes of the tensor before this chunk. */
  readonly at: number;
}

/** Reads tensors one after the other through two buffers of its own. */
export class ChunkReader {
  readonly #buffers: Uint8Array[] = [];

  async *chunks(tensor: StoredTensor): AsyncGenerator<Chunk> {
    let turn = 0;
    const read = (at: number): Promise<Uint8Array> => {
      const length = Math.min(CHUNK_BYTES, tensor.bytes - at);
      turn = 1 - turn;
      if (tensor.bytes <= SMALL_BYTES) return tensor.read(at, length);
      this.#buffers[turn] ??= new Uint8Array(CHUNK_BYTES);
      return tensor.read(at, length, this.#buffers[turn]);
    };
    let next = read(0);
    try {
      for (let at = 0; at < tensor.bytes; ) {
        const bytes = await next;
        const end = at + bytes.length;
        if (end < tensor.bytes) next = read(end);
        yield { bytes, at };
        at = end;
      }
    } finally {
      // A caller that stops early leaves no read behind.
      await next.catch(() => {});
    }
  }
}

/** Tensors up to this size get memory of their own: small models never need the buffers. */
const SMALL_BYTES = 1 << 16;
