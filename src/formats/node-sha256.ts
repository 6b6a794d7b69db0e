// SHA-256 of files, streamed: what identifies a base and verifies a download.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import type { ByteSource } from "./byte-source.ts";
import type { Folder } from "./folder.ts";
import type { NodeFolder } from "./node-files.ts";

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

/** Below this a thread takes longer to start than the files take to hash. */
const WORTH_A_THREAD = 64 << 20;

/**
 * `sha256OfFiles` beside other work: a thread reads and hashes the files, while the caller loads them. Both go through the
 * system's page cache, so the disk is read once. Rejected with the signal's reason when it is aborted.
 */
export async function sha256InBackground(
  folder: NodeFolder,
  names: readonly string[],
  signal: AbortSignal,
): Promise<string> {
  if ((await sizeOf(folder, names)) < WORTH_A_THREAD) return sha256OfFiles(folder, names);
  try {
    return await hashInThread(
      names.map((name) => join(folder.path, name)),
      signal,
    );
  } catch {
    signal.throwIfAborted();
    // A thread that fails says little: this way names the file, or succeeds where threads cannot be had.
    return sha256OfFiles(folder, names);
  }
}

async function sizeOf(folder: Folder, names: readonly string[]): Promise<number> {
  let bytes = 0;
  for (const name of names) {
    const source = await folder.open(name);
    bytes += source.size;
    await source.close();
  }
  return bytes;
}

/** The thread's program. It is text, since a file of its own would have another name in `src` than in `dist`. */
const HASHING_THREAD = `
const { createHash } = require("node:crypto");
const { closeSync, openSync, readSync } = require("node:fs");
const { parentPort, workerData } = require("node:worker_threads");
const hash = createHash("sha256");
const chunk = Buffer.allocUnsafeSlow(1 << 20);
for (const path of workerData) {
  const file = openSync(path, "r");
  for (let bytes; (bytes = readSync(file, chunk, 0, chunk.length, null)) > 0; ) hash.update(chunk.subarray(0, bytes));
  closeSync(file);
}
parentPort.postMessage(hash.digest("hex"));
`;

function hashInThread(paths: readonly string[], signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const worker = new Worker(HASHING_THREAD, { eval: true, workerData: paths });
    signal.addEventListener("abort", () => void worker.terminate(), { once: true });
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.once("exit", () => reject(new Error("the hashing thread ended without a result")));
  });
}

async function* chunksOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.size; at += CHUNK) yield await source.read(at, Math.min(CHUNK, source.size - at));
}
