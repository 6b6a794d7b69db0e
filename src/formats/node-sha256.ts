// SHA-256 of files, streamed: what identifies a base and verifies a download.

import { createHash } from "node:crypto";
import type { ByteSource } from "./byte-source.ts";
import type { Folder } from "./folder.ts";

const CHUNK = 4 << 20;

/** Lower-case hex SHA-256 over the contents of the files, in the order given. */
export async function sha256OfFiles(folder: Folder, names: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const name of names) {
    const source = await folder.open(name);
    try {
      for await (const chunk of chunksOf(source)) hash.update(chunk);
    } finally {
      await source.close();
    }
  }
  return hash.digest("hex");
}

/** Lower-case hex SHA-256 of a text's UTF-8 bytes. */
export function sha256OfText(text: string): string {
  return createHash("sha256").update(text, "utf8").digest("hex");
}

async function* chunksOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.size; at += CHUNK) yield await source.read(at, Math.min(CHUNK, source.size - at));
}
