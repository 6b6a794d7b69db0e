// Folders and files of this machine. Writes are atomic: temporary file in the same folder, fsync, rename, fsync of the
// folder; a whole new folder can be made so too. Temporary files and folders carry the writer's pid (`.NAME.PID.COUNT.qdl-tmp`), so that those of dead runs can be told from
// those of live ones; they are removed when a folder is opened for writing.

import { type FileHandle, mkdir, open, readdir, rename, rm, stat, truncate, unlink } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { QdlError } from "../errors.ts";
import { type ByteSource, checkRange } from "./byte-source.ts";
import type { Folder } from "./folder.ts";
import { checkRelativePath } from "./safe-path.ts";

/** Most bytes of one write call. */
export const WRITE_CHUNK = 1 << 20;
/** Most bytes of one read call; the kernel refuses more than 2³¹−1. */
const READ_CHUNK = 1 << 30;

/** The moments of an atomic write at which a test may kill the process or fail the disk. */
export type WritePoint = "before-temp" | "half-written" | "before-rename" | "before-folder-fsync";
export type WriteHook = (point: WritePoint, name: string) => void | Promise<void>;
export type FileContent = Uint8Array | AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

export interface OpenFolderOptions {
  /** Create the folder if needed, and remove temporary files that dead runs left. */
  readonly write?: boolean;
  readonly hook?: WriteHook;
}

/** Opens a folder. Throws FILE_NOT_FOUND if it is not there (unless `write`), WRITE_FAILED if it cannot be created. */
export async function openFolder(path: string, options: OpenFolderOptions = {}): Promise<NodeFolder> {
  if (options.write) {
    await mkdir(path, { recursive: true }).catch((cause) => {
      throw writeFailed(path, 0, cause);
    });
    await removeDeadTemps(path);
  } else {
    const info = await stat(path).catch((cause) => {
      throw readFailed(path, cause);
    });
    if (!info.isDirectory())
      throw new QdlError("FILE_NOT_FOUND", `${path} is a file, expected a folder`, { details: { path } });
  }
  return new NodeFolder(path, options.hook);
}

/**
 * Makes a folder in one step: `fill` gets a temporary one beside it, which takes its name when `fill` is done. On any failure
 * nothing is left behind. Throws FILE_EXISTS if something is there that is no empty folder, WRITE_FAILED, and what `fill` throws.
 */
export async function createFolder<T>(path: string, fill: (folder: NodeFolder) => Promise<T>): Promise<T> {
  await refuseInUse(path);
  const target = resolve(path);
  let result: T | undefined;
  await changing(path, 0, async () => {
    await mkdir(dirname(target), { recursive: true });
    await removeDeadTemps(dirname(target));
    const temp = nextTemp(target);
    try {
      await mkdir(temp);
      result = await produced(() => fill(new NodeFolder(temp)));
      await syncFolder(temp);
      await rename(temp, target);
    } catch (cause) {
      await rm(temp, { recursive: true, force: true });
      throw cause;
    } finally {
      liveTemps.delete(temp);
    }
    await syncFolder(dirname(target));
  });
  return result as T;
}

async function refuseInUse(path: string): Promise<void> {
  const kind = await fileKind(path);
  if (kind === null || (kind === "folder" && (await readdir(path)).length === 0)) return;
  const what = kind === "file" ? "is a file" : "is not empty";
  throw new QdlError("FILE_EXISTS", `output: ${path} ${what}, expected a new folder`, {
    hint: "Choose another --output.",
    details: { path },
  });
}

/** What lies at `path`; null if nothing does. */
export async function fileKind(path: string): Promise<"folder" | "file" | null> {
  return stat(path).then(
    (info) => (info.isDirectory() ? "folder" : "file"),
    () => null,
  );
}

/** Last name of a folder's full path ("." included). */
export const folderName = (path: string): string => basename(resolve(path));

/** A folder of the file system. Names are relative ("a.json", "sub/b.json"); sub-folders are made when written to. */
export class NodeFolder implements Folder {
  readonly path: string;
  readonly #hook: WriteHook | undefined;
  /** Sub-folders already cleared of dead runs' temporary files; the folder itself was when it was opened. */
  readonly #swept = new Set<string>();

  constructor(path: string, hook?: WriteHook) {
    this.path = path;
    this.#hook = hook;
    this.#swept.add(resolve(path));
  }

  async exists(name: string): Promise<boolean> {
    try {
      await stat(this.#locate(name));
      return true;
    } catch (cause) {
      if (isMissing(cause)) return false;
      throw readFailed(this.#locate(name), cause);
    }
  }

  /** Names of the files here (not of sub-folders), sorted. */
  async list(): Promise<string[]> {
    const entries = await readdir(this.path, { withFileTypes: true }).catch((cause) => {
      throw readFailed(this.path, cause);
    });
    const files = entries.filter((entry) => !entry.isDirectory() && !tempOwner(entry.name));
    return files.map((entry) => entry.name).sort();
  }

  async read(name: string): Promise<Uint8Array> {
    const source = await this.open(name);
    try {
      return await source.read(0, source.size);
    } finally {
      await source.close();
    }
  }

  open(name: string): Promise<ByteSource> {
    return openFile(this.#locate(name));
  }

  async write(name: string, content: FileContent): Promise<void> {
    const path = this.#locate(name);
    await this.#sweep(dirname(resolve(path)));
    await writeAtomically(path, content, (point) => this.#hook?.(point, name));
  }

  async append(name: string, text: string): Promise<void> {
    const bytes = new TextEncoder().encode(text);
    await changing(this.#locate(name), bytes.length, async (path) => {
      await withFile(path, "a", async (file) => {
        await writeAll(file, bytes);
        await file.datasync();
      });
    });
  }

  async truncate(name: string, bytes: number): Promise<void> {
    const path = this.#locate(name);
    const size = await stat(path).then(
      (info) => info.size,
      (cause) => {
        if (isMissing(cause) && bytes === 0) return 0;
        throw readFailed(path, cause);
      },
    );
    if (size < bytes)
      throw new QdlError("FILE_UNREADABLE", `${path}: has ${size} bytes, expected at least ${bytes} to cut it there`, {
        hint: "The file lost its end; it cannot be continued from this point.",
        details: { path, size, bytes },
      });
    if (size > bytes) await changing(path, 0, () => truncate(path, bytes));
  }

  /** Removes a file; one that is not there is no error. */
  async remove(name: string): Promise<void> {
    await changing(this.#locate(name), 0, (path) => unlink(path).catch(ignoreMissing));
  }

  async #sweep(folder: string): Promise<void> {
    if (this.#swept.has(folder)) return;
    this.#swept.add(folder);
    await removeDeadTemps(folder).catch(ignoreMissing);
  }

  #locate(name: string): string {
    checkRelativePath(name, this.path);
    return join(this.path, name);
  }
}

/** Opens one file for reading. Throws FILE_NOT_FOUND, FILE_UNREADABLE. */
export async function openFile(path: string): Promise<ByteSource> {
  let file: FileHandle | null = null;
  try {
    file = await open(path, "r");
    const info = await file.stat();
    if (info.isDirectory()) throw Object.assign(new Error("it is a folder"), { code: "EISDIR" });
    return fileSource(file, path, info.size);
  } catch (cause) {
    await file?.close();
    throw readFailed(path, cause);
  }
}

function fileSource(file: FileHandle, name: string, size: number): ByteSource {
  return {
    name,
    size,
    read: async (offset, length, into) => {
      checkRange(name, size, offset, length);
      const bytes = into?.subarray(0, length) ?? new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await file
          .read(bytes, done, Math.min(length - done, READ_CHUNK), offset + done)
          .catch((cause) => {
            throw readFailed(name, cause);
          });
        if (bytesRead === 0) checkRange(name, offset + done, offset, length);
        done += bytesRead;
      }
      return bytes;
    },
    close: () => file.close(),
  };
}

/**
 * Replaces the file at `path` in one step. On failure the old file is intact and the temporary one gone.
 * Throws WRITE_FAILED; an error of `content` itself passes through as it is.
 */
export async function writeAtomically(
  path: string,
  content: FileContent,
  hook: (point: WritePoint) => void | Promise<void> = () => {},
): Promise<void> {
  const folder = dirname(path);
  const source = new Source(content);
  await changing(
    path,
    () => source.bytes,
    async () => {
      await mkdir(folder, { recursive: true });
      await hook("before-temp");
      const temp = nextTemp(path);
      try {
        await withFile(temp, "wx", (file) => writeTemp(file, source, hook));
        await hook("before-rename");
        await rename(temp, path);
      } catch (cause) {
        await unlink(temp).catch(ignoreMissing);
        throw cause;
      } finally {
        liveTemps.delete(temp);
      }
      await hook("before-folder-fsync");
      await syncFolder(folder);
    },
  );
}

/** Chunks of at most WRITE_CHUNK; what the producer throws is kept apart from what the disk throws. */
class Source {
  bytes = 0;
  readonly #content: FileContent;

  constructor(content: FileContent) {
    this.#content = content;
  }

  async *chunks(): AsyncGenerator<Uint8Array> {
    const parts = this.#content instanceof Uint8Array ? [this.#content] : this.#content;
    const iterator = Symbol.asyncIterator in parts ? parts[Symbol.asyncIterator]() : parts[Symbol.iterator]();
    try {
      for (;;) {
        const step = await produced(() => iterator.next());
        if (step.done) return;
        for (let at = 0; at < step.value.length; at += WRITE_CHUNK) yield step.value.subarray(at, at + WRITE_CHUNK);
      }
    } finally {
      await iterator.return?.();
    }
  }
}

/** Marks an error as the producer's own. */
class ProducerError extends Error {}

async function produced<T>(step: () => T | Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (cause) {
    throw new ProducerError("the producer of the content failed", { cause });
  }
}

async function writeTemp(file: FileHandle, source: Source, hook: (point: WritePoint) => void | Promise<void>) {
  let first = true;
  for await (const chunk of source.chunks()) {
    const split = first ? chunk.length >> 1 : chunk.length;
    await writeAll(file, chunk.subarray(0, split));
    if (first) await hook("half-written");
    await writeAll(file, chunk.subarray(split));
    source.bytes += chunk.length;
    first = false;
  }
  if (first) await hook("half-written");
  await file.sync();
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done);
    done += bytesWritten;
  }
}

async function withFile(path: string, flags: string, use: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, flags);
  try {
    await use(file);
  } finally {
    await file.close();
  }
}

/** Makes a rename durable. File systems that cannot sync a folder (and Windows) say so and are left alone. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  await withFile(folder, "r", (file) =>
    file.sync().catch((cause) => {
      if (!["EINVAL", "ENOTSUP", "ENOSYS"].includes(codeOf(cause) ?? "")) throw cause;
    }),
  );
}

/** Runs a change of the file at `path`; errors of the system become WRITE_FAILED. */
async function changing(path: string, bytes: number | (() => number), change: (path: string) => Promise<unknown>) {
  try {
    await change(path);
  } catch (error) {
    if (error instanceof ProducerError) throw error.cause;
    if (error instanceof QdlError) throw error;
    throw writeFailed(path, typeof bytes === "number" ? bytes : bytes(), error);
  }
}

const TEMP = /^\..+\.(\d+)\.\d+\.qdl-tmp$/;
const liveTemps = new Set<string>();
let tempCount = 0;

function nextTemp(path: string): string {
  const temp = join(dirname(path), `.${basename(path)}.${process.pid}.${tempCount++}.qdl-tmp`);
  liveTemps.add(temp);
  return temp;
}

/** Pid in the name of a temporary file; null for any other file. */
function tempOwner(name: string): number | null {
  const match = TEMP.exec(name);
  return match ? Number(match[1]) : null;
}

async function removeDeadTemps(folder: string): Promise<void> {
  const live = new Set([...liveTemps].map((temp) => resolve(temp)));
  for (const name of await readdir(folder)) {
    const pid = tempOwner(name);
    if (pid === null || live.has(resolve(folder, name)) || (pid !== process.pid && isAlive(pid))) continue;
    await rm(join(folder, name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return codeOf(cause) === "EPERM";
  }
}

function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : undefined;
}

const isMissing = (error: unknown): boolean => ["ENOENT", "ENOTDIR"].includes(codeOf(error) ?? "");

function ignoreMissing(error: unknown): void {
  if (!isMissing(error)) throw error;
}

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function readFailed(path: string, cause: unknown): QdlError {
  if (cause instanceof QdlError) return cause;
  if (isMissing(cause))
    return new QdlError("FILE_NOT_FOUND", `${path} does not exist`, {
      hint: "Check the spelling and the folder you are in.",
      details: { path },
      cause,
    });
  const hint = codeOf(cause) === "EACCES" ? "Check the permissions of the file and its folders." : "Check the disk.";
  return new QdlError("FILE_UNREADABLE", `${path} cannot be read: ${reasonOf(cause)}`, {
    hint,
    details: { path, errno: codeOf(cause) ?? null },
    cause,
  });
}

const WRITE_HINTS: Readonly<Record<string, string>> = {
  ENOSPC: "The disk is full: free some space, or choose another folder.",
  EDQUOT: "The disk quota is used up: free some space, or choose another folder.",
  EACCES: "Check the permissions of the folder, or choose another one.",
  EPERM: "Check the permissions of the folder, or choose another one.",
  EROFS: "The file system is read-only: choose another folder.",
  EISDIR: "A folder of that name is in the way: remove it, or choose another name.",
  ENOTDIR: "A file is in the way of a folder of that name: remove it, or choose another name.",
  EEXIST: "A file is in the way of a folder of that name: remove it, or choose another name.",
};

function writeFailed(path: string, bytes: number, cause: unknown): QdlError {
  const errno = codeOf(cause) ?? null;
  return new QdlError("WRITE_FAILED", `${path}: writing failed after ${bytes} bytes: ${reasonOf(cause)}`, {
    hint: WRITE_HINTS[errno ?? ""] ?? "Check the disk and the permissions of the folder.",
    details: { path, bytes, errno },
    cause,
  });
}
