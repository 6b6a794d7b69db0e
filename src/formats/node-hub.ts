// Models of the Hugging Face hub, through its local cache. Listing uses @huggingface/hub; contents are fetched here, since
// the library neither resumes nor verifies them. Only what a model needs is fetched: config, tokenizer, template, weights.

import { homedir } from "node:os";
import { join } from "node:path";
import type { HubApiError, ListFileEntry } from "@huggingface/hub";
import { QdlError } from "../errors.ts";
import { COMPANION_FILES, INDEX_FILE, readJson, SINGLE_FILE } from "./checkpoint.ts";
import { download, unauthorized } from "./node-download.ts";
import { fileKind, openFolder } from "./node-files.ts";
import { HubCache, isCommit } from "./node-hub-cache.ts";
import { checkPlainName } from "./safe-path.ts";

export interface HubSettings {
  /** HF_ENDPOINT, without a slash at its end. */
  readonly endpoint: string;
  /** HF_TOKEN; sent to the endpoint only, never printed. */
  readonly token: string | null;
  /** HF_HUB_CACHE, or `hub` in HF_HOME. */
  readonly cacheFolder: string;
  /** HF_HUB_OFFLINE: nothing is asked of the network. */
  readonly offline: boolean;
}

/** The settings that all clients of the hub share, from the environment. */
export function hubSettings(env: Readonly<Record<string, string | undefined>> = process.env): HubSettings {
  const home = env.HF_HOME ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "huggingface");
  return {
    endpoint: (env.HF_ENDPOINT ?? "https://huggingface.co").replace(/\/+$/, ""),
    token: env.HF_TOKEN || null,
    cacheFolder: env.HF_HUB_CACHE ?? env.HUGGINGFACE_HUB_CACHE ?? join(home, "hub"),
    offline: /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ""),
  };
}

export interface HubId {
  /** "org/name". */
  readonly id: string;
  readonly revision: string;
}

/** "org/name" or "org/name@revision"; null for anything else. */
export function parseHubId(text: string): HubId | null {
  const match = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*?)(?:@([\w][\w./-]*))?$/.exec(text);
  return match && !match[1]!.includes("..") ? { id: match[1]!, revision: match[2] ?? "main" } : null;
}

export interface HubProgress {
  readonly file: string;
  /** Bytes of all files together; files that were in the cache count as done. */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface HubModel {
  /** Folder of the snapshot: a model folder. */
  readonly folder: string;
  /** The commit. */
  readonly revision: string;
}

export interface HubOptions {
  readonly settings?: HubSettings | undefined;
  readonly onProgress?: ((progress: HubProgress) => void) | undefined;
  /** See `Download.idleMs`. */
  readonly idleMs?: number | undefined;
}

/**
 * Brings a model into the cache and returns its folder. Without network, what the cache has.
 * Throws HUB_OFFLINE (unreachable or offline, and not in the cache), HUB_UNAUTHORIZED, HUB_NOT_FOUND,
 * HUB_DOWNLOAD_FAILED, MODEL_UNSUPPORTED (no safetensors), WRITE_FAILED.
 */
export async function fetchHubModel({ id, revision }: HubId, options: HubOptions = {}): Promise<HubModel> {
  const settings = options.settings ?? hubSettings();
  const cache = new HubCache(settings.cacheFolder, id);
  if (settings.offline) return cachedModel(cache, id, revision, "HF_HUB_OFFLINE is set");
  const hub = new Hub(settings, id);
  let commit: string;
  let listing: ListFileEntry[];
  try {
    commit = await hub.commit(revision);
    listing = await hub.list(commit);
  } catch (error) {
    if (error instanceof QdlError) throw error;
    return cachedModel(cache, id, revision, `${settings.endpoint} cannot be reached (${reasonOf(error)})`, error);
  }
  const files = await new Fetcher(hub, cache, commit, listing, options).fetchAll();
  await cache.remember(revision, commit);
  return { folder: cache.snapshot(commit), revision: files.commit };
}

/** What the cache has, if that is a whole model. */
async function cachedModel(
  cache: HubCache,
  id: string,
  revision: string,
  why: string,
  cause?: unknown,
): Promise<HubModel> {
  const commit = await cache.commitOf(revision);
  const folder = commit === null ? cache.path : cache.snapshot(commit);
  const missing = commit === null ? null : await missingFiles(cache, commit);
  if (commit !== null && missing!.length === 0) return { folder, revision: commit };
  const lack = missing === null ? `no revision "${revision}" of it is` : `${missing.join(", ")} is not`;
  throw new QdlError("HUB_OFFLINE", `${id}: ${why}, and ${lack} in the cache folder ${folder}`, {
    hint: "Go online, or download the model where there is a network and set HF_HOME to its cache.",
    details: { id, revision, folder, missing },
    cause,
  });
}

/** Files without which the snapshot is no model. */
async function missingFiles(cache: HubCache, commit: string): Promise<string[]> {
  const needed = ["config.json"];
  if (await cache.has(commit, SINGLE_FILE)) needed.push(SINGLE_FILE);
  else if (await cache.has(commit, INDEX_FILE)) needed.push(...(await shardNames(cache.snapshot(commit))));
  else needed.push(SINGLE_FILE);
  const present = await Promise.all(needed.map((name) => cache.has(commit, name)));
  return needed.filter((_, i) => !present[i]);
}

/** Names of the shards in the index of a model folder. Throws PATH_UNSAFE, MODEL_CONFIG_INVALID. */
async function shardNames(folder: string): Promise<string[]> {
  const json = (await readJson(await openFolder(folder), INDEX_FILE)) as { weight_map?: unknown } | null;
  const names = new Set(Object.values((json?.weight_map ?? {}) as Record<string, unknown>).map(String));
  for (const name of names) checkPlainName(name, `${folder}/${INDEX_FILE}`);
  return [...names].sort();
}

/** The hub's API for one repository. */
class Hub {
  readonly id: string;
  readonly settings: HubSettings;

  constructor(settings: HubSettings, id: string) {
    this.settings = settings;
    this.id = id;
  }

  async commit(revision: string): Promise<string> {
    const { modelInfo } = await import("@huggingface/hub");
    const info = await this.#asking(revision, () =>
      modelInfo({
        name: this.id,
        revision,
        additionalFields: ["sha"],
        hubUrl: this.settings.endpoint,
        fetch: this.#fetch,
      }),
    );
    if (typeof info.sha === "string" && isCommit(info.sha)) return info.sha;
    throw this.#answerInvalid(`the commit of "${revision}" is ${JSON.stringify(info.sha)}`);
  }

  /** Files at the top of the repository. */
  async list(commit: string): Promise<ListFileEntry[]> {
    const { listFiles } = await import("@huggingface/hub");
    return this.#asking(commit, async () => {
      const files: ListFileEntry[] = [];
      const options = { repo: this.id, revision: commit, hubUrl: this.settings.endpoint, fetch: this.#fetch };
      for await (const entry of listFiles(options)) if (entry.type === "file") files.push(entry);
      return files;
    });
  }

  url(commit: string, name: string): string {
    return `${this.settings.endpoint}/${this.id}/resolve/${commit}/${encodeURIComponent(name)}`;
  }

  /** The token goes to the endpoint; on a redirect to another host `fetch` drops it. */
  headers(url: string): Record<string, string> {
    const { token, endpoint } = this.settings;
    const ours = new URL(url).origin === new URL(endpoint).origin;
    return token !== null && ours ? { Authorization: `Bearer ${token}` } : {};
  }

  readonly #fetch: typeof fetch = (input, init) => {
    const url = String(input instanceof Request ? input.url : input);
    return fetch(input, { ...init, headers: { ...(init?.headers as Record<string, string>), ...this.headers(url) } });
  };

  /** Refusals of the API become coded errors; an unreachable or failing hub stays an ordinary error. */
  async #asking<T>(revision: string, ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      const status = (error as Partial<HubApiError>).statusCode;
      if (status === 401 || status === 403) throw unauthorized(this.id, status);
      if (status === 404)
        throw new QdlError("HUB_NOT_FOUND", `${this.id}: the hub has no such model or revision "${revision}"`, {
          hint: "Check the spelling; a folder of that name does not exist here either.",
          details: { id: this.id, revision, status },
        });
      throw error;
    }
  }

  #answerInvalid(reason: string): QdlError {
    return new QdlError("HUB_DOWNLOAD_FAILED", `${this.id}: the hub's answer makes no sense: ${reason}`, {
      hint: "Check HF_ENDPOINT.",
      details: { id: this.id },
    });
  }
}

/** Files that are fetched at the same time. */
const PARALLEL = 4;

class Fetcher {
  readonly #hub: Hub;
  readonly #cache: HubCache;
  readonly #commit: string;
  readonly #listing: ReadonlyMap<string, ListFileEntry>;
  readonly #options: HubOptions;
  #doneBytes = 0;
  #downloads = false;
  #totalBytes = 0;

  constructor(hub: Hub, cache: HubCache, commit: string, listing: readonly ListFileEntry[], options: HubOptions) {
    this.#hub = hub;
    this.#cache = cache;
    this.#commit = commit;
    this.#listing = new Map(listing.map((entry) => [entry.path, entry]));
    this.#options = options;
  }

  async fetchAll(): Promise<{ commit: string }> {
    const small = ["config.json", ...COMPANION_FILES].filter((name) => this.#listing.has(name));
    const single = this.#listing.has(SINGLE_FILE);
    if (!single && !this.#listing.has(INDEX_FILE)) throw this.#noWeights();
    const first = single ? [...small, SINGLE_FILE] : [...small, INDEX_FILE];
    await this.#fetch(first);
    if (single) return { commit: this.#commit };
    await this.#fetch(await shardNames(this.#cache.snapshot(this.#commit)));
    return { commit: this.#commit };
  }

  /** Several at a time. The first failure stops the others; what they have is kept for the next call. */
  async #fetch(names: readonly string[]): Promise<void> {
    this.#totalBytes += this.#sum(names);
    const waiting = [...names];
    const stop = new AbortController();
    const worker = async (): Promise<void> => {
      for (let name = waiting.shift(); name !== undefined; name = waiting.shift())
        await this.#fetchOne(name, stop.signal).catch((error) => {
          waiting.length = 0;
          stop.abort(error);
          throw error;
        });
    };
    await Promise.allSettled(Array.from({ length: Math.min(PARALLEL, names.length) }, worker));
    stop.signal.throwIfAborted();
  }

  async #fetchOne(name: string, signal: AbortSignal): Promise<void> {
    const { etag, size, hash } = this.#content(name);
    let had = 0;
    const done = (bytes: number): void => {
      this.#doneBytes += bytes - had;
      had = bytes;
      // What was all in the cache is no download.
      if (this.#downloads)
        this.#options.onProgress?.({ file: name, doneBytes: this.#doneBytes, totalBytes: this.#totalBytes });
    };
    if (!(await this.#cache.has(this.#commit, name))) {
      const path = this.#cache.blob(etag);
      const url = this.#hub.url(this.#commit, name);
      const what = `${this.#hub.id}/${name}`;
      const { idleMs } = this.#options;
      if ((await fileKind(path)) === null) {
        this.#downloads = true;
        await download({ what, url, headers: this.#hub.headers(url), path, size, hash, onBytes: done, idleMs, signal });
      }
      await this.#cache.link(this.#commit, name, etag);
    }
    done(size);
  }

  /** Large files are known by the SHA-256 of their content, small ones by git's hash. */
  #content(name: string) {
    const entry = this.#listing.get(name);
    if (!entry)
      throw new QdlError("HUB_NOT_FOUND", `${this.#hub.id}: ${INDEX_FILE} names ${name}, which the repository lacks`, {
        details: { id: this.#hub.id, file: name },
      });
    const kind = entry.lfs ? ("sha256" as const) : ("git" as const);
    const hex = String(entry.lfs?.oid ?? entry.oid).replace(/^sha256:/, "");
    const size = entry.lfs?.size ?? entry.size;
    if (!/^[0-9a-f]{40,64}$/.test(hex) || !Number.isSafeInteger(size) || size < 0)
      throw new QdlError(
        "HUB_DOWNLOAD_FAILED",
        `${this.#hub.id}: the hub lists ${name} with hash ${hex} and size ${size}`,
        {
          hint: "Check HF_ENDPOINT.",
          details: { id: this.#hub.id, file: name },
        },
      );
    return { etag: hex, size, hash: { kind, hex } };
  }

  #sum(names: readonly string[]): number {
    return names.reduce((bytes, name) => bytes + (this.#listing.get(name)?.size ?? 0), 0);
  }

  #noWeights(): QdlError {
    const weights = [...this.#listing.keys()].filter((name) => /\.(bin|pth?|gguf|h5|msgpack|safetensors)$/.test(name));
    const seen = weights.length > 0 ? `; it has ${weights.slice(0, 4).join(", ")}` : "";
    return new QdlError("MODEL_UNSUPPORTED", `${this.#hub.id}: has neither ${SINGLE_FILE} nor ${INDEX_FILE}${seen}`, {
      hint: "Choose a repository with weights in safetensors format.",
      details: { id: this.#hub.id, found: weights },
    });
  }
}

/** The innermost reason of a failed `fetch`; never a URL, which may hold a signature. */
function reasonOf(error: unknown): string {
  const { statusCode } = error as Partial<HubApiError>;
  if (statusCode !== undefined) return `HTTP ${statusCode}`;
  const cause = (error as { cause?: { code?: string; message?: string } }).cause;
  return cause?.code ?? cause?.message ?? (error instanceof Error ? error.message : String(error));
}
