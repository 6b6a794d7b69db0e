import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, readlink, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { locateModel } from "../../src/formats/locate-model.ts";
import {
  fetchHubModel,
  type HubProgress,
  type HubSettings,
  hubSettings,
  parseHubId,
} from "../../src/formats/node-hub.ts";
import { writeTiny } from "../quant/tiny-model.ts";
import { COMMIT, type Files, type HubServer, send, startHub } from "./hub-server.ts";

const TOKEN = "hf_secret_of_the_test";
const ID = { id: "org/model", revision: "main" };

async function modelFiles(shards = 1): Promise<Record<string, Uint8Array>> {
  const folder = await writeTiny({ shards });
  const files: Record<string, Uint8Array> = {
    "tokenizer.json": new TextEncoder().encode('{"a":1}'),
    "README.md": new TextEncoder().encode("not needed"),
    "pytorch_model.bin": new Uint8Array(10),
  };
  for (const name of await folder.list()) files[name] = await folder.read(name);
  return files;
}

async function settingsFor(hub: HubServer, change: Partial<HubSettings> = {}): Promise<HubSettings> {
  const cacheFolder = await mkdtemp(join(tmpdir(), "qdl-hub-"));
  return { endpoint: hub.endpoint, token: TOKEN, cacheFolder, offline: false, ...change };
}

const repoFolder = (settings: HubSettings) => join(settings.cacheFolder, "models--org--model");
const blobs = (settings: HubSettings) => readdir(join(repoFolder(settings), "blobs")).catch(() => []);

/** The content of a large file, and the request handler's test for it. */
const isStorage = (url: string | undefined, name: string) => url?.startsWith(`/blobs/${name}`) ?? false;

/** Resolves when so much of a large file is on disk: a connection that breaks earlier loses what is under way. */
async function arrived(settings: HubSettings, content: Uint8Array, size: number): Promise<void> {
  const part = `${createHash("sha256").update(content).digest("hex")}.incomplete`;
  const info = await stat(join(repoFolder(settings), "blobs", part)).catch(() => null);
  if (info && info.size >= size) return;
  await new Promise((done) => setTimeout(done, 5));
  return arrived(settings, content, size);
}

for (const shards of [1, 3])
  test(`a model in ${shards} file(s) arrives in the standard cache layout, with only what is needed`, async () => {
    const files = await modelFiles(shards);
    await using hub = await startHub(files);
    const settings = await settingsFor(hub);
    const progress: HubProgress[] = [];
    const model = await fetchHubModel(ID, { settings, onProgress: (p) => progress.push(p) });
    expect(model).toEqual({ folder: join(repoFolder(settings), "snapshots", COMMIT), revision: COMMIT });
    const needed = Object.keys(files).filter((name) => !["README.md", "pytorch_model.bin"].includes(name));
    expect((await readdir(model.folder)).sort()).toEqual(needed.sort());
    for (const name of needed) expect(new Uint8Array(await readFile(join(model.folder, name)))).toEqual(files[name]);
    expect(await readlink(join(model.folder, "config.json"))).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]{40}$/);
    expect(await readFile(join(repoFolder(settings), "refs", "main"), "utf8")).toBe(COMMIT);
    expect(progress.at(-1)!.doneBytes).toBe(progress.at(-1)!.totalBytes);
    const checkpoint = await openCheckpoint((await locateModel(model.folder)).folder);
    expect(checkpoint.weightFiles).toHaveLength(shards);
    await checkpoint.close();
  });

test("the token goes to the endpoint and not to where it redirects; a second fetch loads nothing again", async () => {
  await using hub = await startHub(await modelFiles());
  const settings = await settingsFor(hub);
  await fetchHubModel(ID, { settings });
  for (const { path, token } of hub.requests)
    expect([path, token]).toEqual([path, path.startsWith("/blobs/") ? undefined : `Bearer ${TOKEN}`]);
  const before = hub.requests.length;
  await fetchHubModel(ID, { settings });
  expect(hub.requests.slice(before).map(({ path }) => path)).toEqual([
    "/api/models/org/model/revision/main",
    `/api/models/org/model/tree/${COMMIT}`,
  ]);
});

test("a connection that breaks is resumed where it stopped, within one call and from an earlier one", async () => {
  const files = await modelFiles();
  const weights = files["model.safetensors"]!;
  await using hub = await startHub(files);
  const settings = await settingsFor(hub);
  let breaks = 2;
  hub.intercept = (request, response) => {
    if (!isStorage(request.url, "model.safetensors") || breaks-- <= 0) return false;
    const start = Number(/\d+/.exec(request.headers.range ?? "")?.[0] ?? 0);
    const range = `bytes ${start}-${weights.length - 1}/${weights.length}`;
    response.writeHead(start ? 206 : 200, { "content-length": weights.length - start, "content-range": range });
    response.write(weights.subarray(start, start + 1000));
    void arrived(settings, weights, start + 1000).then(() => response.destroy());
    return true;
  };
  const { folder } = await fetchHubModel(ID, { settings });
  expect(new Uint8Array(await readFile(join(folder, "model.safetensors")))).toEqual(weights);
  const ranges = hub.requests.filter(({ path }) => path.startsWith("/blobs/")).map(({ range }) => range);
  expect(ranges).toEqual([undefined, "bytes=1000-", "bytes=2000-"]);
});

test("shards come side by side, at most four at a time, and every byte is counted once", async () => {
  const files = await modelFiles(6);
  await using hub = await startHub(files);
  const waiting = new Set<string>();
  let most = 0;
  hub.intercept = (request, response) => {
    const name = request.url?.split("?")[0]?.split("/").at(-1) ?? "";
    if (!isStorage(request.url, name)) return false;
    waiting.add(name);
    most = Math.max(most, waiting.size);
    setTimeout(() => {
      waiting.delete(name);
      send(request, response, files[name]!);
    }, 100);
    return true;
  };
  const settings = await settingsFor(hub);
  const done: number[] = [];
  const { folder } = await fetchHubModel(ID, { settings, onProgress: ({ doneBytes }) => done.push(doneBytes) });
  expect(most).toBe(4);
  expect(done).toEqual([...done].sort((a, b) => a - b));
  const needed = await readdir(folder);
  expect(done.at(-1)).toBe(needed.reduce((sum, name) => sum + files[name]!.length, 0));
});

test("the first failure stops the other downloads, and what they have is kept", async () => {
  const files = await modelFiles(3);
  await using hub = await startHub(files);
  const settings = await settingsFor(hub);
  hub.intercept = (request, response) => {
    if (isStorage(request.url, "model-2-of-3.safetensors")) {
      void arrived(settings, files["model-1-of-3.safetensors"]!, 1000).then(() => response.writeHead(403).end());
      return true;
    }
    if (!isStorage(request.url, "model-1-of-3.safetensors")) return false;
    const content = files["model-1-of-3.safetensors"]!;
    response.writeHead(200, { "content-length": content.length });
    // The rest would never come.
    response.write(content.subarray(0, 1000));
    return true;
  };
  await expect(fetchHubModel(ID, { settings })).rejects.toMatchObject({ code: "HUB_UNAUTHORIZED" });
  hub.intercept = () => false;
  await fetchHubModel(ID, { settings });
  const again = hub.requests.filter(({ path }) => path === "/blobs/model-1-of-3.safetensors").at(-1);
  expect(again!.range).toBe("bytes=1000-");
});

test("a server that ignores the range is read from the start", async () => {
  const files = await modelFiles();
  const weights = files["model.safetensors"]!;
  await using hub = await startHub(files);
  let breaks = 1;
  hub.intercept = (request, response) => {
    if (!isStorage(request.url, "model.safetensors")) return false;
    response.writeHead(200, { "content-length": weights.length });
    if (breaks-- > 0) response.write(weights.subarray(0, 1000), () => response.destroy());
    else response.end(weights);
    return true;
  };
  const { folder } = await fetchHubModel(ID, { settings: await settingsFor(hub) });
  expect(new Uint8Array(await readFile(join(folder, "model.safetensors")))).toEqual(weights);
});

test("a body that stays truncated fails, and is neither complete nor lost", async () => {
  const files = await modelFiles();
  const weights = files["model.safetensors"]!;
  await using hub = await startHub(files);
  hub.intercept = (request, response) => {
    if (!isStorage(request.url, "model.safetensors")) return false;
    const start = Number(/\d+/.exec(request.headers.range ?? "")?.[0] ?? 0);
    const rest = weights.subarray(start, 500);
    response.writeHead(start ? 206 : 200, { "content-length": rest.length, "content-range": `bytes ${start}-499/500` });
    response.end(rest);
    return true;
  };
  const settings = await settingsFor(hub);
  const failure = fetchHubModel(ID, { settings });
  await expect(failure).rejects.toMatchObject({ code: "HUB_DOWNLOAD_FAILED" });
  await expect(failure).rejects.toThrow(`ended after 500 of ${weights.length} bytes`);
  expect((await blobs(settings)).filter((name) => name.endsWith(".incomplete"))).toHaveLength(1);
  expect(await readdir(join(repoFolder(settings), "snapshots", COMMIT))).not.toContain("model.safetensors");
  hub.intercept = () => false;
  await fetchHubModel(ID, { settings });
  expect(hub.requests.at(-1)).toMatchObject({ path: "/blobs/model.safetensors", range: "bytes=500-" });
  expect((await blobs(settings)).filter((name) => name.endsWith(".incomplete"))).toEqual([]);
});

const WRONG: [string, string, (content: Uint8Array) => Uint8Array, RegExp][] = [
  ["a longer body", "model.safetensors", (c) => Buffer.concat([c, new Uint8Array(3)]), /longer than its stated/],
  ["another large content", "model.safetensors", (c) => c.map((b, i) => (i === 9 ? b ^ 1 : b)), /has sha256 hash/],
  ["another small content", "config.json", (c) => c.map((b, i) => (i === 9 ? b ^ 1 : b)), /has git hash/],
];
for (const [name, file, change, message] of WRONG)
  test(`${name} is refused and not kept`, async () => {
    const files = await modelFiles();
    await using hub = await startHub(files);
    hub.intercept = (request, response) => {
      if (!isStorage(request.url, file) && !request.url?.endsWith(`/resolve/${COMMIT}/${file}`)) return false;
      if (file.endsWith(".safetensors") && !request.url?.startsWith("/blobs")) return false;
      send(request, response, change(files[file]!));
      return true;
    };
    const settings = await settingsFor(hub);
    const failure = fetchHubModel(ID, { settings });
    await expect(failure).rejects.toMatchObject({ code: "HUB_DOWNLOAD_FAILED" });
    await expect(failure).rejects.toThrow(message);
    expect((await blobs(settings)).filter((blob) => blob.endsWith(".incomplete"))).toEqual([]);
  });

test("a connection that falls silent is given up", async () => {
  const files = await modelFiles();
  await using hub = await startHub(files);
  hub.intercept = (request) => isStorage(request.url, "model.safetensors");
  const failure = fetchHubModel(ID, { settings: await settingsFor(hub), idleMs: 100 });
  await expect(failure).rejects.toMatchObject({ code: "HUB_DOWNLOAD_FAILED" });
});

for (const [status, code] of [
  [401, "HUB_UNAUTHORIZED"],
  [403, "HUB_UNAUTHORIZED"],
  [404, "HUB_NOT_FOUND"],
] as const)
  for (const where of ["/api/models/org/model/revision/", `/api/models/org/model/tree/`, `/org/model/resolve/`])
    test(`HTTP ${status} from ${where} gives ${code}, without the token in the text`, async () => {
      await using hub = await startHub(await modelFiles());
      hub.intercept = (request, response) => {
        if (!request.url?.startsWith(where)) return false;
        response.writeHead(status, { "content-type": "application/json" }).end('{"error":"no"}');
        return true;
      };
      const error = await fetchHubModel(ID, { settings: await settingsFor(hub) }).catch((caught) => caught);
      expect(error).toMatchObject({ code });
      expect(`${error.message} ${error.hint} ${JSON.stringify(error.details)}`).not.toContain("secret");
    });

test("without network the cache is used; without the cache HUB_OFFLINE names the folder that was looked in", async () => {
  const hub = await startHub(await modelFiles(3));
  const settings = await settingsFor(hub);
  const model = await fetchHubModel(ID, { settings });
  await hub[Symbol.asyncDispose]();
  const before = hub.requests.length;
  expect(await fetchHubModel(ID, { settings })).toEqual(model);
  expect(await fetchHubModel(ID, { settings: { ...settings, offline: true } })).toEqual(model);
  expect(await fetchHubModel({ id: "org/model", revision: COMMIT }, { settings })).toEqual(model);
  expect(hub.requests).toHaveLength(before);
  for (const offline of [true, false]) {
    const failure = fetchHubModel({ id: "org/other", revision: "main" }, { settings: { ...settings, offline } });
    await expect(failure).rejects.toMatchObject({ code: "HUB_OFFLINE" });
    await expect(failure).rejects.toThrow(join(settings.cacheFolder, "models--org--other"));
    await expect(failure).rejects.toThrow(offline ? /HF_HUB_OFFLINE is set/ : /cannot be reached \(ECONNREFUSED\)/);
  }
});

test("a snapshot that is only in part in the cache is not used offline", async () => {
  const files = await modelFiles(3);
  await using hub = await startHub(files);
  hub.intercept = (request, response) => {
    if (!isStorage(request.url, "model-3-of-3.safetensors")) return false;
    response.writeHead(403).end();
    return true;
  };
  const settings = await settingsFor(hub);
  await expect(fetchHubModel(ID, { settings })).rejects.toMatchObject({ code: "HUB_UNAUTHORIZED" });
  const offline = { ...settings, offline: true };
  await expect(fetchHubModel({ ...ID, revision: COMMIT }, { settings: offline })).rejects.toMatchObject({
    code: "HUB_OFFLINE",
    details: { missing: expect.arrayContaining(["model-3-of-3.safetensors"]) },
  });
});

test("a listing or an index that lies does not reach outside the cache", async () => {
  const files = await modelFiles(3);
  const index = new TextEncoder().encode('{"weight_map":{"a":"../../evil.safetensors"}}');
  const evil: Files = { ...files, "model.safetensors.index.json": index };
  await using hub = await startHub(evil);
  await expect(fetchHubModel(ID, { settings: await settingsFor(hub) })).rejects.toMatchObject({ code: "PATH_UNSAFE" });
  hub.intercept = (request, response) => {
    if (!request.url?.includes("/tree/")) return false;
    const entry = { type: "file", path: "config.json", size: 1, oid: "../../../evil" };
    const weights = { type: "file", path: "model.safetensors", size: 1, oid: "../evil" };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify([entry, weights]));
    return true;
  };
  await expect(fetchHubModel(ID, { settings: await settingsFor(hub) })).rejects.toMatchObject({
    code: "HUB_DOWNLOAD_FAILED",
  });
});

test("a repository without safetensors is refused with what it has", async () => {
  const { "model.safetensors": _, ...files } = await modelFiles();
  await using hub = await startHub(files);
  const failure = fetchHubModel(ID, { settings: await settingsFor(hub) });
  await expect(failure).rejects.toMatchObject({ code: "MODEL_UNSUPPORTED" });
  await expect(failure).rejects.toThrow(/it has pytorch_model\.bin/);
});

test("the environment's settings", () => {
  expect(
    hubSettings({ HF_HOME: "/h", HF_ENDPOINT: "https://mirror.test/", HF_TOKEN: "t", HF_HUB_OFFLINE: "1" }),
  ).toEqual({
    endpoint: "https://mirror.test",
    token: "t",
    cacheFolder: join("/h", "hub"),
    offline: true,
  });
  expect(hubSettings({ HF_HUB_CACHE: "/c", HF_HOME: "/h", HF_TOKEN: "" })).toMatchObject({
    endpoint: "https://huggingface.co",
    token: null,
    cacheFolder: "/c",
    offline: false,
  });
});

test("hub ids", () => {
  expect(parseHubId("org/name")).toEqual({ id: "org/name", revision: "main" });
  expect(parseHubId("org/name-1.5_b@refs/pr/1")).toEqual({ id: "org/name-1.5_b", revision: "refs/pr/1" });
  for (const text of [
    "name",
    "./org/name",
    "../name",
    "/org/name",
    "a/b/c",
    "org/na..me",
    "org/name@",
    "org/na me",
    "",
  ])
    expect(parseHubId(text)).toBe(null);
});

test("what is neither a folder nor a hub id is refused; files are named as such", async () => {
  const folder = await writeTiny();
  expect(await locateModel(folder.path)).toMatchObject({ revision: null, name: folder.path.split("/").at(-1) });
  await expect(locateModel("./nothing/here/at/all")).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  const file = join(folder.path, "model.gguf");
  await writeFile(file, "GGUF");
  expect(await locateModel(file)).toMatchObject({ ggufFile: "model.gguf", name: "model.gguf", revision: null });
  // Ollama's files are named by their hash.
  const blob = join(folder.path, "sha256-0123");
  await writeFile(blob, "GGUF and more");
  expect(await locateModel(blob)).toMatchObject({ ggufFile: "sha256-0123" });
  await writeFile(blob, "PK");
  await expect(locateModel(blob)).rejects.toMatchObject({
    code: "MODEL_UNSUPPORTED",
    message: expect.stringContaining("a .gguf file"),
  });
  await expect(locateModel("other.gguf")).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
});
