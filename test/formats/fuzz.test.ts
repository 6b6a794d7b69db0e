// Files that lie: more than 20,000 broken headers of safetensors, GGUF and JSON. Whatever is in them, opening either works or
// throws a coded error; no read goes beyond the file, no name leaves the folder, and memory stays of the file's size.

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { QdlError } from "../../src/errors.ts";
import { type ByteSource, memorySource } from "../../src/formats/byte-source.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import type { Folder } from "../../src/formats/folder.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { openGgufModel } from "../../src/formats/gguf-model.ts";
import { encodeGguf, f32, u32 } from "../../src/formats/gguf-write.ts";
import { memoryFolder } from "../../src/formats/memory-folder.ts";
import { openPeft } from "../../src/formats/peft.ts";
import { encodeSafetensors, openSafetensors } from "../../src/formats/safetensors.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";

const SEED = 20261124;
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const fixture = (name: string): Uint8Array =>
  new Uint8Array(readFileSync(new URL(`../fixtures/${name}`, import.meta.url)));

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return new Uint8Array(Buffer.concat(parts));
}

/** Fails if more is read than there is. */
function watched(bytes: Uint8Array, name = "fuzz"): ByteSource {
  const source = memorySource(bytes, name);
  return {
    ...source,
    read: (offset, length, into) => {
      if (!(offset >= 0 && length >= 0 && offset + length <= bytes.length))
        throw new Error(`read ${offset}+${length} of a file of ${bytes.length} bytes`);
      return source.read(offset, length, into);
    },
  };
}

/** Bytes that a file of this size may cost: its texts as strings and lists, a read-ahead, and slack for the test itself. */
const memoryFor = (fileBytes: number): number => 24 * fileBytes + (8 << 20);

/** Runs `open`; every failure must be coded. Returns whether it worked. */
async function survives(open: () => unknown, fileBytes: number): Promise<boolean> {
  const before = process.memoryUsage();
  let worked = true;
  try {
    await open();
  } catch (error) {
    if (!(error instanceof QdlError)) throw error;
    worked = false;
  }
  const after = process.memoryUsage();
  const grown = after.arrayBuffers - before.arrayBuffers + Math.max(0, after.heapUsed - before.heapUsed);
  if (grown > memoryFor(fileBytes)) throw new Error(`${grown} bytes were taken for a file of ${fileBytes}`);
  return worked;
}

interface Change {
  readonly at: number;
  readonly kind: "byte" | "u32" | "u64" | "cut" | "insert" | "remove";
  readonly value: bigint;
}

/** Sizes that lie in telling ways, and any others. */
const size = fc.oneof(
  fc.constantFrom(
    0n,
    1n,
    255n,
    2n ** 31n - 1n,
    2n ** 31n,
    2n ** 32n - 1n,
    2n ** 40n,
    2n ** 53n,
    2n ** 63n,
    2n ** 64n - 1n,
  ),
  fc.bigInt(0n, 2n ** 64n - 1n),
  fc.bigInt(0n, 4096n),
);
const change: fc.Arbitrary<Change> = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom("byte", "byte", "u32", "u64", "u64", "cut", "insert", "remove"),
  value: size,
});
const changes = fc.array(change, { minLength: 1, maxLength: 4 });

/** The bytes with changes in their first `header` bytes. */
function changed(bytes: Uint8Array, header: number, list: readonly Change[]): Uint8Array {
  let file = bytes.slice();
  for (const { at, kind, value } of list) {
    if (file.length < 9) break;
    const place = at % Math.min(header, file.length - 8);
    const view = new DataView(file.buffer);
    if (kind === "byte") file[place] = Number(value & 255n);
    else if (kind === "u32") view.setUint32(place, Number(value & 0xffffffffn), true);
    else if (kind === "u64") view.setBigUint64(place, value, true);
    else if (kind === "cut") file = file.slice(0, place);
    else {
      const count = Number(value % 9n);
      const rest = file.subarray(place + (kind === "remove" ? count : 0));
      file = new Uint8Array(
        Buffer.concat(
          [file.subarray(0, place), kind === "insert" ? new Uint8Array(count) : "", rest].map((part) =>
            Buffer.from(part as Uint8Array),
          ),
        ),
      );
    }
  }
  return file;
}

const property = <T>(arbitrary: fc.Arbitrary<T>, numRuns: number, check: (value: T) => Promise<void>) =>
  fc.assert(fc.asyncProperty(arbitrary, check), { numRuns, seed: SEED });

describe("GGUF", () => {
  const small = () =>
    collect(
      encodeGguf(
        [
          ["general.architecture", "llama"],
          ["a.texts", ["one", "two", ""]],
          ["a.numbers", Int32Array.of(1, 2, 3)],
          ["a.scores", Float32Array.of(0.5)],
          ["a.count", u32(7)],
          ["a.eps", f32(1e-5)],
          ["a.flag", true],
        ],
        ["x", "y"].map((name) => ({
          name,
          type: "F16" as const,
          shape: [2, 32],
          content: () => [new Uint8Array(128)],
        })),
      ),
    );

  test("8,000 headers of a small file", async () => {
    const file = await small();
    let opened = 0;
    await property(changes, 8000, async (list) => {
      const bytes = changed(file, file.length - 256, list);
      const worked = await survives(async () => {
        const { tensors } = await openGguf(watched(bytes));
        for (const tensor of tensors.values()) expect((await tensor.read()).length).toBe(tensor.bytes);
      }, bytes.length);
      if (worked) opened++;
    });
    // Both ways must be met, or nothing was tried.
    expect(opened).toBeGreaterThan(100);
    expect(opened).toBeLessThan(6000);
  });

  test("2,000 files of blocks, read to the end", async () => {
    const file = fixture("gguf/blocks.gguf");
    await property(changes, 2000, async (list) => {
      const bytes = changed(file, 1100, list);
      await survives(async () => {
        const { tensors } = await openGguf(watched(bytes));
        for (const tensor of tensors.values()) expect((await tensor.read()).length).toBe(tensor.bytes);
      }, 8 * bytes.length);
    });
  });

  test("1,000 whole models with tokenizer and config", async () => {
    const file = fixture("gguf/llama-tied.gguf");
    await property(changes, 1000, async (list) => {
      const bytes = changed(file, 12_000, list);
      await survives(async () => {
        const checkpoint = await openGgufModel(watched(bytes), "m.gguf");
        parseModelConfig(checkpoint.configJson);
        for (const name of checkpoint.tensorNames.slice(0, 3)) await checkpoint.tensor(name).read(0, 64);
      }, 8 * bytes.length);
    });
  });
});

/** JSON values that no honest file has. */
const oddValue = fc.oneof(
  fc.constantFrom<unknown>(null, true, -1, 0.5, 1e308, 2 ** 53, "", "../../etc/passwd", [], {}, [[]], "\u0000"),
  fc.jsonValue({ maxDepth: 2 }),
);

interface Edit {
  readonly at: number;
  readonly what: "replace" | "remove" | "rename";
  readonly value: unknown;
  readonly name: string;
}
const edits = fc.array(
  fc.record({
    at: fc.nat(),
    what: fc.constantFrom("replace", "replace", "remove", "rename") as fc.Arbitrary<Edit["what"]>,
    value: oddValue,
    name: fc.constantFrom("__proto__", "constructor", "", "../x", "x".repeat(300), "\uFFFF"),
  }),
  { minLength: 1, maxLength: 3 },
);

/** A copy of a JSON value with edits at any depth. */
function edited(json: unknown, list: readonly Edit[]): unknown {
  const copy = JSON.parse(JSON.stringify(json));
  for (const { at, what, value, name } of list) {
    const places: { holder: Record<string, unknown>; key: string }[] = [];
    const walk = (holder: unknown): void => {
      if (typeof holder !== "object" || holder === null) return;
      for (const key of Object.keys(holder).slice(0, 40)) {
        places.push({ holder: holder as Record<string, unknown>, key });
        walk((holder as Record<string, unknown>)[key]);
      }
    };
    walk(copy);
    if (places.length === 0) break;
    const { holder, key } = places[at % places.length]!;
    const old = holder[key];
    if (what !== "replace") delete holder[key];
    if (what === "replace") holder[key] = value;
    if (what === "rename")
      Object.defineProperty(holder, name, { value: old, enumerable: true, configurable: true, writable: true });
  }
  return copy;
}

describe("safetensors", () => {
  const header = {
    __metadata__: { format: "pt" },
    "a.weight": { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] },
    "b.weight": { dtype: "BF16", shape: [4], data_offsets: [24, 32] },
    c: { dtype: "U8", shape: [0], data_offsets: [32, 32] },
  };
  const fileOf = (text: string, data = 32): Uint8Array => {
    const json = utf8(text);
    const file = new Uint8Array(8 + json.length + data);
    new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
    file.set(json, 8);
    return file;
  };
  const readAll = async (bytes: Uint8Array) => {
    const file = await openSafetensors(watched(bytes));
    for (const name of file.names) expect((await file.tensor(name).read()).length).toBe(file.tensor(name).bytes);
  };

  test("4,000 headers with other bytes", async () => {
    const file = fileOf(JSON.stringify(header));
    await property(changes, 4000, async (list) => {
      const bytes = changed(file, file.length - 32, list);
      await survives(() => readAll(bytes), bytes.length);
    });
  });

  test("3,000 headers with other values", async () => {
    let opened = 0;
    await property(edits, 3000, async (list) => {
      const bytes = fileOf(JSON.stringify(edited(header, list)));
      if (await survives(() => readAll(bytes), bytes.length)) opened++;
    });
    expect(opened).toBeGreaterThan(20);
    expect(opened).toBeLessThan(2000);
  });
});

/** A folder that fails the test when it is asked for a name outside itself. */
function fenced(files: Record<string, Uint8Array>): Folder {
  const folder = memoryFolder("model", new Map(Object.entries(files)));
  const inside = (name: string): string => {
    if (
      name === "" ||
      name.startsWith("/") ||
      /\\|\0/.test(name) ||
      name.split("/").some((part) => part === ".." || part === ".")
    )
      throw new Error(`the folder was asked for ${JSON.stringify(name)}`);
    return name;
  };
  return {
    ...folder,
    exists: (name) => folder.exists(inside(name)),
    read: (name) => folder.read(inside(name)),
    open: async (name) => watched(await folder.read(inside(name)), name),
  };
}

describe("JSON beside weights", () => {
  const index = { metadata: { total_size: 32 }, weight_map: { "a.weight": "one.safetensors", b: "two.safetensors" } };
  const shard = (name: string) =>
    collect(encodeSafetensors([{ name, dtype: "F32", shape: [2], content: new Uint8Array(8) }]));

  test("2,000 indexes: shards stay in their folder", async () => {
    const files = { "one.safetensors": await shard("a.weight"), "two.safetensors": await shard("b") };
    const config = utf8("{}");
    await property(edits, 2000, async (list) => {
      const json = utf8(JSON.stringify(edited(index, list)));
      await survives(
        () => openCheckpoint(fenced({ "config.json": config, "model.safetensors.index.json": json, ...files })),
        json.length + 4096,
      );
    });
  });

  test.each(["../evil.safetensors", "/etc/passwd", "a/../../b", "sub/one.safetensors", "..", "C:\\x", "a\u0000b", ""])(
    "an index that names %j is refused",
    async (name) => {
      const json = utf8(JSON.stringify({ weight_map: { a: name } }));
      const opening = openCheckpoint(fenced({ "config.json": utf8("{}"), "model.safetensors.index.json": json }));
      await expect(opening).rejects.toThrow(expect.objectContaining({ code: "PATH_UNSAFE" }));
    },
  );

  test("1,500 configs", async () => {
    const config = JSON.parse(new TextDecoder().decode(fixture("gguf/llama3-rope.config.json")));
    await property(edits, 1500, async (list) => {
      await survives(() => parseModelConfig(edited(config, list)), 4096);
    });
  });

  test("1,000 tokenizers", async () => {
    const json = JSON.parse(new TextDecoder().decode(fixture("tokenizer-tiny/byte-level.json")));
    await property(edits, 1000, async (list) => {
      await survives(
        () => loadTokenizer({ tokenizerJson: edited(json, list) }).encode("The cat 日本", { addSpecial: true }),
        1 << 16,
      );
    });
  });

  test("1,000 adapters of PEFT", async () => {
    const config = JSON.parse(new TextDecoder().decode(fixture("gguf/adapter/adapter_config.json")));
    const weights = fixture("gguf/adapter/adapter_model.safetensors");
    await property(fc.tuple(edits, changes), 1000, async ([list, other]) => {
      const files = {
        "adapter_config.json": utf8(JSON.stringify(edited(config, list))),
        "adapter_model.safetensors": other[0]!.at % 2 ? weights : changed(weights, 4000, other),
      };
      await survives(async () => {
        const peft = await openPeft(fenced(files));
        for (const module of peft.modules.slice(0, 2)) await module.a();
      }, weights.length);
    });
  });
});
