// A folder as training and export see it. No `node:` here: a browser can bring its own.

import type { ByteSource } from "./byte-source.ts";

export interface Folder {
  /** For messages: the path as the user knows it. */
  readonly path: string;
  exists(name: string): Promise<boolean>;
  list(): Promise<string[]>;
  /** Throws FILE_NOT_FOUND, FILE_UNREADABLE. */
  read(name: string): Promise<Uint8Array>;
  open(name: string): Promise<ByteSource>;
  /**
   * Replaces the file in one step: temporary file in the same folder, fsync, rename, fsync of the folder. On any failure
   * the old file is intact and the temporary one is gone. Throws WRITE_FAILED.
   */
  write(name: string, content: Uint8Array | AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void>;
  /** Appends whole lines to a log and flushes them. */
  append(name: string, text: string): Promise<void>;
  /** Cuts a log to its first `bytes` bytes. */
  truncate(name: string, bytes: number): Promise<void>;
  remove(name: string): Promise<void>;
}
