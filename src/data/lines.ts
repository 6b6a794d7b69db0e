// A file's lines as bytes, read in pieces of CHUNK bytes, so that a file of any size passes through little memory.

import type { ByteSource } from "../formats/byte-source.ts";

const CHUNK = 1 << 20;
const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const BOM = [0xef, 0xbb, 0xbf] as const;

export interface Line {
  /** 1-based. */
  readonly line: number;
  /** Without LF or CR LF, and without a byte-order mark at the file's start. */
  readonly bytes: Uint8Array;
}

/** Every line, the last one also if no line feed ends it. */
export async function* readLines(source: ByteSource): AsyncGenerator<Line> {
  let line = 1;
  let pending: Uint8Array[] = [];
  for (let offset = 0; offset < source.size; offset += CHUNK) {
    const chunk = await source.read(offset, Math.min(CHUNK, source.size - offset));
    let from = 0;
    for (let at = chunk.indexOf(LINE_FEED); at >= 0; at = chunk.indexOf(LINE_FEED, from)) {
      yield { line, bytes: trim(join(pending, chunk.subarray(from, at)), line) };
      pending = [];
      line++;
      from = at + 1;
    }
    if (from < chunk.length) pending.push(chunk.slice(from));
  }
  if (pending.length > 0) yield { line, bytes: trim(join(pending, new Uint8Array(0)), line) };
}

function join(pieces: readonly Uint8Array[], last: Uint8Array): Uint8Array {
  if (pieces.length === 0) return last;
  const all = [...pieces, last];
  const joined = new Uint8Array(all.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of all) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}

function trim(bytes: Uint8Array, line: number): Uint8Array {
  const from = line === 1 && BOM.every((b, i) => bytes[i] === b) ? BOM.length : 0;
  const to = bytes.at(-1) === CARRIAGE_RETURN ? bytes.length - 1 : bytes.length;
  return bytes.subarray(from, Math.max(from, to));
}
