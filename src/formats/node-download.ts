// One file over HTTP into a file: resumed where an earlier attempt stopped, checked against its size and hash, and renamed
// to its name only then. What is not complete lies beside it as NAME.incomplete.

import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { QdlError } from "../errors.ts";

export interface Download {
  /** For messages: the URL or name as the user knows it. */
  readonly what: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly path: string;
  readonly size: number;
  /** sha256: of the content; git: SHA-1 of git's blob, which is "blob SIZE\0" and the content. */
  readonly hash: { readonly kind: "sha256" | "git"; readonly hex: string };
  /** Called with the bytes that have arrived, those of earlier attempts included. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
  readonly fetch?: typeof fetch | undefined;
  /** Stops the download, which then throws the signal's reason; what has arrived is kept. */
  readonly signal?: AbortSignal | undefined;
  /** A connection that sends nothing for so long is given up. Default 60,000. */
  readonly idleMs?: number | undefined;
}

/** Attempts in a row without a new byte before the download fails. */
const ATTEMPTS = 3;
/** Wait before the first repetition; the second waits twice as long. */
const RETRY_MS = 200;

/**
 * Downloads the file. Throws HUB_DOWNLOAD_FAILED (what arrived is kept for the next call, unless it is wrong),
 * HUB_UNAUTHORIZED, HUB_NOT_FOUND, WRITE_FAILED.
 */
export async function download(job: Download): Promise<void> {
  const part = `${job.path}.incomplete`;
  await mkdir(dirname(job.path), { recursive: true });
  let failures = 0;
  for (let had = await sizeOf(part); had !== job.size; ) {
    const error = await attempt(job, part, had).catch((caught: unknown) => caught);
    job.signal?.throwIfAborted();
    if (error instanceof QdlError) {
      if (error.code === "HUB_DOWNLOAD_FAILED") await rm(part, { force: true });
      throw error;
    }
    const has = await sizeOf(part);
    failures = has > had ? 0 : failures + 1;
    if (has < job.size && failures >= ATTEMPTS) throw failed(job, `ended after ${has} of ${job.size} bytes`, error);
    if (failures > 0) await new Promise((done) => setTimeout(done, failures * RETRY_MS));
    had = has;
  }
  if (job.size === 0) await (await openPart(job, part, 0)).close();
  await finish(job, part);
}

/** One request; returns when its body ends, and throws what broke it. */
async function attempt(job: Download, part: string, had: number): Promise<void> {
  if (had > job.size) return rm(part, { force: true });
  const abort = new AbortController();
  const signal = job.signal ? AbortSignal.any([abort.signal, job.signal]) : abort.signal;
  const idle = setTimeout(() => abort.abort(new Error("the connection was idle for too long")), job.idleMs ?? 60_000);
  try {
    const range: Record<string, string> = had > 0 ? { Range: `bytes=${had}-` } : {};
    const get = job.fetch ?? fetch;
    const response = await get(job.url, { headers: { ...job.headers, ...range }, signal });
    if (response.status === 416) return await rm(part, { force: true });
    requireOk(job, response);
    const resumed = response.status === 206 && response.headers.get("content-range")?.startsWith(`bytes ${had}-`);
    const start = resumed ? had : 0;
    const file = await openPart(job, part, start);
    try {
      await receive(job, file, response, start, () => idle.refresh());
    } finally {
      await file.close();
    }
  } finally {
    clearTimeout(idle);
  }
}

async function receive(job: Download, file: FileHandle, response: Response, start: number, touch: () => void) {
  let at = start;
  for await (const chunk of response.body ?? []) {
    touch();
    if (at + chunk.length > job.size) throw failed(job, `is longer than its stated ${job.size} bytes`);
    await writing(job, async () => {
      await file.write(chunk, 0, chunk.length, at);
    });
    at += chunk.length;
    job.onBytes?.(at);
  }
}

function openPart(job: Download, part: string, start: number): Promise<FileHandle> {
  return writing(job, () => open(part, start > 0 ? "r+" : "w"));
}

function requireOk(job: Download, { status, ok }: Response): void {
  if (ok) return;
  if (status === 401 || status === 403) throw unauthorized(job.what, status);
  if (status === 404)
    throw new QdlError("HUB_NOT_FOUND", `${job.what} does not exist (HTTP 404)`, {
      details: { what: job.what, status },
    });
  if (status >= 500 || status === 429) throw new Error(`HTTP ${status}`);
  throw failed(job, `was refused with HTTP ${status}`);
}

export function unauthorized(what: string, status: number): QdlError {
  return new QdlError("HUB_UNAUTHORIZED", `${what}: the hub refused access (HTTP ${status})`, {
    hint: "Check the name; for a gated or private model accept its terms on its page and set HF_TOKEN.",
    details: { what, status },
  });
}

async function finish(job: Download, part: string): Promise<void> {
  const file = await open(part, "r+");
  let hex: string;
  try {
    hex = await hashOf(file, job);
    await writing(job, () => file.sync());
  } finally {
    await file.close();
  }
  if (hex !== job.hash.hex) {
    await rm(part, { force: true });
    throw failed(job, `has ${job.hash.kind} hash ${hex}, expected ${job.hash.hex}`);
  }
  await writing(job, () => rename(part, job.path));
}

async function hashOf(file: FileHandle, { hash, size }: Download): Promise<string> {
  const hasher = createHash(hash.kind === "git" ? "sha1" : "sha256");
  if (hash.kind === "git") hasher.update(`blob ${size}\0`);
  const buffer = new Uint8Array(1 << 20);
  for (let at = 0; at < size; ) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) break;
    hasher.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
  return hasher.digest("hex");
}

const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    (info) => info.size,
    () => 0,
  );

async function writing<T>(job: Download, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    const { message, code } = cause as { message: string; code?: string };
    throw new QdlError("WRITE_FAILED", `${job.path}: writing the download of ${job.what} failed: ${message}`, {
      hint:
        code === "ENOSPC" ? "The disk is full: free some space, or set HF_HOME to another disk." : "Check the folder.",
      details: { path: job.path, bytes: job.size, errno: code ?? null },
      cause,
    });
  }
}

function failed(job: Download, reason: string, cause?: unknown): QdlError {
  const why = cause instanceof Error ? ` (${cause.message})` : "";
  return new QdlError("HUB_DOWNLOAD_FAILED", `${job.what} ${reason}${why}`, {
    hint: "Try again: the download goes on where it stopped.",
    details: { what: job.what, size: job.size },
    cause,
  });
}
