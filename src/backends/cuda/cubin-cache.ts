// Compiled kernels on disk, in the user's cache folder. A file's name is the hash of everything that its content depends
// on, its first bytes are a hash of the content, so a file that was cut or damaged counts as absent. Files appear by rename,
// so that processes can race. A folder that cannot be written costs time and nothing else.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const HASH_BYTES = 32;

export const defaultCacheFolder = (): string =>
  join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "qdylora", "cuda");

export class CubinCache {
  readonly folder: string;

  constructor(folder = defaultCacheFolder()) {
    this.folder = folder;
  }

  /** The image kept under these parts, or made by `compile` and kept. */
  get(parts: readonly string[], compile: () => Uint8Array): Uint8Array {
    const file = join(this.folder, `${sha256(JSON.stringify(parts)).toString("hex")}.cubin`);
    const kept = readImage(file);
    if (kept) return kept;
    const image = compile();
    this.#keep(file, image);
    return image;
  }

  #keep(file: string, image: Uint8Array): void {
    try {
      mkdirSync(this.folder, { recursive: true });
      const temporary = `${file}.${process.pid}.tmp`;
      try {
        writeFileSync(temporary, Buffer.concat([sha256(image), image]));
        renameSync(temporary, file);
      } finally {
        rmSync(temporary, { force: true });
      }
    } catch {
      // Compiled again the next time.
    }
  }
}

function readImage(file: string): Uint8Array | null {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch {
    return null;
  }
  const image = bytes.subarray(HASH_BYTES);
  return sha256(image).equals(bytes.subarray(0, HASH_BYTES)) ? image : null;
}

const sha256 = (bytes: string | Uint8Array): Buffer => createHash("sha256").update(bytes).digest();
