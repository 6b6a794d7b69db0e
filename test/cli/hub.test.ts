// A model named by its hub id on the command line: it is fetched from a local server, its progress is shown, and the token
// is seen by nobody but the server.

import { readdirSync } from "node:fs";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type HubServer, startHub } from "../formats/hub-server.ts";
import { qdylora, TinyProject } from "./tiny-project.ts";

const TOKEN = "hf_secret0123456789";
let hub: HubServer;
let project: TinyProject;
const saved: Record<string, string | undefined> = {};

beforeEach(async () => {
  project = await TinyProject.create();
  const files = readdirSync(project.path("model")).map((name): [string, Uint8Array] => [
    name,
    project.bytes(`model/${name}`),
  ]);
  hub = await startHub(Object.fromEntries(files));
  const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: project.path("hf"), HF_TOKEN: TOKEN, HF_HUB_OFFLINE: "0" };
  for (const [name, value] of Object.entries(env)) {
    saved[name] = process.env[name];
    process.env[name] = value;
  }
});
afterEach(async () => {
  for (const [name, value] of Object.entries(saved))
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  await hub[Symbol.asyncDispose]();
  project[Symbol.dispose]();
});

const say = (...more: string[]) =>
  qdylora([
    "generate",
    "--model",
    "org/model",
    "--prompt",
    "say dog:",
    "--max-new-tokens",
    "3",
    "--backend",
    "reference",
    ...more,
  ]);

test("progress is shown on the first fetch alone; a second run, and one offline, say the same", async () => {
  const first = await say();
  expect(first.code, first.err).toBe(0);
  // Files arrive side by side: which of them is told first is chance.
  expect(first.err).toMatch(/downloading \([\w.]+\): \d+ % of \d/);
  expect(hub.requests.some(({ token }) => token === `Bearer ${TOKEN}`)).toBe(true);
  const second = await say();
  expect(second).toMatchObject({ code: 0, out: first.out, err: "" });
  process.env.HF_HUB_OFFLINE = "1";
  const before = hub.requests.length;
  expect(await say()).toMatchObject({ code: 0, out: first.out, err: "" });
  expect(hub.requests).toHaveLength(before);
});

test.each([
  [
    "refused",
    (response: { writeHead(status: number): { end(): void } }) => response.writeHead(403).end(),
    "HUB_UNAUTHORIZED",
  ],
  ["lying", (response: { end(text: string): void }) => response.end("[]"), "HUB_DOWNLOAD_FAILED"],
] as const)(
  "a %s request shows neither token nor signature, not even with --debug and --json",
  async (_, answer, code) => {
    hub.intercept = (request, response) => {
      if (!/resolve|blobs/.test(request.url ?? "")) return false;
      answer(response);
      return true;
    };
    const { out, err } = await say("--debug", "--json");
    expect(JSON.parse(out)).toMatchObject({ error: { code } });
    for (const text of [out, err]) {
      expect(text).not.toContain(TOKEN);
      expect(text).not.toContain("signature");
    }
  },
);

test("nothing that is written holds the token", async () => {
  const run = [
    "--data",
    project.path("train.jsonl"),
    "--rank-max",
    "2",
    "--steps",
    "1",
    "--batch",
    "2",
    "--held-out",
    "0",
  ];
  const argv = ["train", "--model", "org/model", ...run, "--output", project.path("run"), "--backend", "reference"];
  expect((await qdylora(argv)).code).toBe(0);
  for (const name of readdirSync(project.folder, { recursive: true, withFileTypes: true }))
    if (name.isFile()) {
      const path = `${name.parentPath.slice(project.folder.length + 1)}/${name.name}`.replace(/^\//, "");
      expect(project.bytes(path).includes(TOKEN), path).toBe(false);
    }
  expect(JSON.parse(project.read("run/qdylora.json")).base).toMatchObject({ name: "org/model" });
});
