// Bytes from anywhere: a file, memory, or a range of an HTTP resource. Readers of formats see only this.

export interface ByteSource {
  /** For messages: a path or URL as the user knows it. */
  readonly name: string;
  readonly size: number;
  /** Exactly `length` bytes from `offset`. Throws FILE_UNREADABLE if the source is shorter than it said. */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** A byte source over memory. */
export function memorySource(bytes: Uint8Array, name = "memory"): ByteSource {
  return {
    name,
    size: bytes.length,
    read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
    close: () => Promise.resolve(),
  };
}
