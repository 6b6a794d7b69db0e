// Bytes from anywhere: a file, memory, or a range of an HTTP resource. Readers of formats see only this.

import { QdlError } from "../errors.ts";

export interface ByteSource {
  /** For messages: a path or URL as the user knows it. */
  readonly name: string;
  readonly size: number;
  /**
   * Exactly `length` bytes from `offset`. They may be put into `into` (at least that long) instead of new memory, and then
   * last until the caller uses it again. Throws FILE_UNREADABLE if the source is shorter than it said.
   */
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** A byte source over memory. Reads are views, not copies. */
export function memorySource(bytes: Uint8Array, name = "memory"): ByteSource {
  return {
    name,
    size: bytes.length,
    read: async (offset, length) => {
      checkRange(name, bytes.length, offset, length);
      return bytes.subarray(offset, offset + length);
    },
    close: () => Promise.resolve(),
  };
}

/** Throws FILE_UNREADABLE unless bytes offset..offset+length−1 exist. */
export function checkRange(name: string, size: number, offset: number, length: number): void {
  if (offset >= 0 && length >= 0 && offset + length <= size) return;
  throw new QdlError("FILE_UNREADABLE", `${name}: bytes ${offset}..${offset + length} were asked for, it has ${size}`, {
    hint: "The file may be truncated; copy or download it again.",
    details: { path: name, offset, length, size },
  });
}
