// A local server that speaks the part of the hub's API that is used: model info, tree, resolve with a redirect of large
// files to a second origin. Each test can make it misbehave.

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

export interface HubServer extends AsyncDisposable {
  readonly endpoint: string;
  /** Requests so far, as "METHOD path" with "range" and whether a token came along. */
  readonly requests: {
    readonly path: string;
    readonly range: string | undefined;
    readonly token: string | undefined;
  }[];
  /** Changes or replaces answers; return true if it answered. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean;
}

export type Files = Readonly<Record<string, Uint8Array>>;

const LARGE = /\.safetensors$/;

/** Serves `files` as org/model: safetensors as LFS files on another origin, the rest as git files. */
export async function startHub(files: Files): Promise<HubServer> {
  const requests: HubServer["requests"] = [];
  const note = ({ url = "", headers }: IncomingMessage) =>
    requests.push({ path: url.split("?")[0]!, range: headers.range, token: headers.authorization });
  const storage = createServer((request, response) => {
    note(request);
    if (!hub.intercept(request, response))
      send(request, response, files[request.url!.split("?")[0]!.split("/").at(-1)!]!);
  });
  const storageUrl = await listen(storage);
  const api = createServer((request, response) => {
    note(request);
    if (!hub.intercept(request, response)) answer(request, response, files, storageUrl);
  });
  const endpoint = await listen(api);
  const close = async () => {
    for (const server of [api, storage]) {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
  };
  const hub: HubServer = { endpoint, requests, intercept: () => false, [Symbol.asyncDispose]: close };
  return hub;
}

function answer(request: IncomingMessage, response: ServerResponse, files: Files, storageUrl: string): void {
  const path = decodeURIComponent(request.url!.split("?")[0]!);
  const resolved = `/org/model/resolve/${COMMIT}/`;
  if (path.startsWith("/api/models/org/model/revision/")) json(response, info());
  else if (path === `/api/models/org/model/tree/${COMMIT}`) json(response, tree(files));
  else if (path.startsWith(resolved) && path.slice(resolved.length) in files) {
    const name = path.slice(resolved.length);
    if (LARGE.test(name)) response.writeHead(302, { location: `${storageUrl}/blobs/${name}?signature=secret` }).end();
    else send(request, response, files[name]!);
  } else response.writeHead(404, { "x-error-code": "RepoNotFound" }).end("not found");
}

const info = () => ({
  id: "org/model",
  _id: "1",
  sha: COMMIT,
  downloads: 0,
  likes: 0,
  private: false,
  gated: false,
  lastModified: "2026-01-01T00:00:00Z",
  createdAt: "2026-01-01T00:00:00Z",
});

function tree(files: Files): unknown[] {
  return Object.entries(files).map(([path, content]) => {
    const size = content.length;
    const git = createHash("sha1").update(`blob ${size}\0`).update(content).digest("hex");
    const oid = createHash("sha256").update(content).digest("hex");
    const lfs = LARGE.test(path) ? { lfs: { oid, size, pointerSize: 130 } } : {};
    return { type: "file", path, size, oid: git, ...lfs };
  });
}

function json(response: ServerResponse, body: unknown): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
}

export function send(request: IncomingMessage, response: ServerResponse, content: Uint8Array): void {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const range = start > 0 ? { "content-range": `bytes ${start}-${content.length - 1}/${content.length}` } : {};
  response.writeHead(start > 0 ? 206 : 200, { "content-length": content.length - start, ...range });
  response.end(content.subarray(start));
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
