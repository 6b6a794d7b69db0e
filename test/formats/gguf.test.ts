// Fixtures by tools/gguf-fixtures.py: blocks and their values from llama.cpp's Python package, models from its converter.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { memorySource } from "../../src/formats/byte-source.ts";
import { toF32 } from "../../src/formats/float-convert.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { openGgufModel } from "../../src/formats/gguf-model.ts";
import { TENSOR_KINDS } from "../../src/formats/gguf-types.ts";
import { openSafetensors, type StoredTensor } from "../../src/formats/safetensors.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { readTokenizer } from "../../src/tokenizer/read.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";

const fixture = (name: string): Buffer => readFileSync(new URL(`../fixtures/gguf/${name}`, import.meta.url));
const sourceOf = (name: string) => memorySource(new Uint8Array(fixture(name)), name);
const json = (name: string) => JSON.parse(fixture(name).toString());

const MODELS = ["llama-tied", "llama3-rope", "qwen2", "qwen3", "gemma2", "gemma3"] as const;

async function values(tensor: StoredTensor): Promise<Float32Array> {
  return toF32(tensor.dtype as "F32" | "F16" | "BF16", await tensor.read());
}

describe("blocks", () => {
  const { types, shape } = json("blocks.json") as { types: (keyof typeof TENSOR_KINDS)[]; shape: number[] };
  const bytes = fixture("blocks.f32");
  const expected = new Float32Array(new Uint8Array(bytes).buffer);
  const count = shape[0]! * shape[1]!;

  test("the fixture holds every type that is read", () => {
    expect([...types].sort()).toEqual(Object.keys(TENSOR_KINDS).sort());
  });

  test.each(types.map((type, i) => [type, i] as const))(
    "%s is what ggml's own package decodes, to the bit",
    async (type, i) => {
      const tensor = (await openGguf(sourceOf("blocks.gguf"))).tensors.get(type)!;
      expect(tensor.shape).toEqual(shape);
      const found = await values(tensor);
      const wanted = expected.subarray(i * count, (i + 1) * count);
      expect(wanted.every(Number.isFinite)).toBe(true);
      expect(new Set(wanted).size).toBeGreaterThan(8);
      expect(new Uint32Array(found.buffer, found.byteOffset, count)).toEqual(new Uint32Array(wanted.slice().buffer));
    },
  );

  test.each(types)("any stretch of %s is that stretch of the whole", async (type) => {
    const tensor = (await openGguf(sourceOf("blocks.gguf"))).tensors.get(type)!;
    const whole = await tensor.read();
    expect(whole.length).toBe(tensor.bytes);
    const into = new Uint8Array(4 * tensor.bytes);
    for (const [from, length] of [
      [0, 8],
      [128, 256],
      [4, 4],
      [2, 6],
      [127, 130],
      [tensor.bytes - 12, 12],
      [0, tensor.bytes],
    ] as const) {
      const part = whole.slice(from, from + length);
      expect(Buffer.compare(await tensor.read(from, length), part)).toBe(0);
      expect(Buffer.compare(await tensor.read(from, length, into), part)).toBe(0);
    }
    await expect(tensor.read(tensor.bytes - 2, 4)).rejects.toThrow(/were asked for/);
  });
});

test("metadata of every kind is read as it was written", async () => {
  const { metadata } = await openGguf(sourceOf("blocks.gguf"));
  expect(metadata.get("general.architecture")).toBe("llama");
  expect(metadata.get("test.flags")).toEqual(Uint8Array.of(1, 0, 1));
  expect(metadata.get("test.f64")).toBe(0.1);
  expect(metadata.get("test.i64")).toBe(-(2 ** 40));
  expect(metadata.get("test.u64")).toBe(2n ** 63n);
  expect(metadata.get("test.i8")).toBe(-5);
  expect(metadata.get("test.words")).toEqual(["Ω", "", "b c"]);
  expect(metadata.get("test.numbers")).toEqual(Int32Array.of(1, 2, 300));
});

describe.each(MODELS)("%s, converted by llama.cpp", (name) => {
  test("has transformers' weights under transformers' names, rows in transformers' order", async () => {
    const checkpoint = await openGgufModel(sourceOf(`${name}.gguf`), `${name}.gguf`);
    const original = await openSafetensors(sourceOf(`${name}.safetensors`));
    expect([...checkpoint.tensorNames].sort()).toEqual([...original.names].sort());
    for (const tensor of original.names) {
      const found = checkpoint.tensor(tensor);
      expect(found.shape).toEqual(original.tensor(tensor).shape);
      const [ours, theirs] = [await values(found), await values(original.tensor(tensor))];
      // Gemma's norms are stored as 1 + w in f32, which rounds.
      if (name.startsWith("gemma") && tensor.endsWith("norm.weight"))
        expect(Math.max(...ours.map((value, i) => Math.abs(value - theirs[i]!)))).toBeLessThan(3e-7);
      else expect(ours, tensor).toEqual(theirs);
      // In pieces that begin and end inside of rows and heads.
      const whole = await found.read();
      const step = 2 * 333;
      for (let at = 0; at < found.bytes; at += step) {
        const length = Math.min(step, found.bytes - at);
        expect(Buffer.compare(await found.read(at, length), whole.slice(at, at + length))).toBe(0);
      }
    }
  });

  test("has transformers' config", async () => {
    const { configJson } = await openGgufModel(sourceOf(`${name}.gguf`), `${name}.gguf`);
    const found = configJson as Record<string, unknown>;
    const original = json(`${name}.config.json`);
    const { rope_theta, ...scaling } = original.rope_parameters.full_attention ?? original.rope_parameters;
    const keys =
      "architectures model_type vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads";
    const more = "intermediate_size max_position_embeddings rms_norm_eps tie_word_embeddings bos_token_id eos_token_id";
    for (const key of `${keys} ${more}`.split(" ")) expect(found[key], key).toEqual(original[key]);
    expect(found.head_dim).toBe(original.head_dim ?? original.hidden_size / original.num_attention_heads);
    expect(found.rope_theta).toBe(rope_theta);
    expect(found.rope_scaling).toEqual(scaling.rope_type === "default" ? null : scaling);
    expect(found.attention_bias).toBe(name === "qwen2");
    if (!name.startsWith("gemma")) return;
    for (const key of [
      "query_pre_attn_scalar",
      "hidden_activation",
      "sliding_window",
      "attn_logit_softcapping",
      "final_logit_softcapping",
    ])
      expect(found[key], key).toEqual(original[key]);
  });

  test("is the same model to its family as the folder that it was converted from", async () => {
    const { configJson } = await openGgufModel(sourceOf(`${name}.gguf`), `${name}.gguf`);
    expect(parseModelConfig(configJson)).toEqual(parseModelConfig(json(`${name}.config.json`)));
  });

  test("has the tokenizer that it was converted with, and its template", async () => {
    const { folder } = await openGgufModel(sourceOf(`${name}.gguf`), `${name}.gguf`);
    const tokenizer = await readTokenizer(folder);
    const path = fileURLToPath(new URL("../fixtures/tokenizer-tiny/byte-level.json", import.meta.url));
    const original = loadTokenizer({ tokenizerJson: JSON.parse(readFileSync(path, "utf8")) });
    for (const text of [
      "",
      "The cat sat",
      " two  spaces\n\n",
      "<|im_start|>user\nnaïve 日本 👩‍👩‍👧<|im_end|>",
      "it's 1234",
    ]) {
      const ids = [...tokenizer.encode(text, { addSpecial: false })];
      expect(ids).toEqual([...original.encode(text, { addSpecial: false })]);
      expect(tokenizer.decode(ids, { skipSpecial: false })).toBe(text);
    }
    expect(tokenizer.bosId).toBe(0);
    expect(tokenizer.eosIds).toEqual([1]);
    expect(tokenizer.renderChat([{ role: "user", content: "hi" }], { generationPrompt: false })).toBe("hi");
  });
});

/** The bytes of blocks.gguf, changed. */
function changed(change: (view: DataView, bytes: Uint8Array) => Uint8Array | undefined): Uint8Array {
  const bytes = new Uint8Array(fixture("blocks.gguf"));
  return change(new DataView(bytes.buffer), bytes) ?? bytes;
}

/** Where a text lies in a file. */
const find = (bytes: Uint8Array, text: string): number => Buffer.from(bytes).indexOf(text);

describe("what lies is refused", () => {
  const set64 = (at: number, value: bigint) => (view: DataView) => void view.setBigUint64(at, value, true);
  test.each<[string, Uint8Array, string, RegExp]>([
    ["an empty file", new Uint8Array(0), "GGUF_INVALID", /magic is cut off: 0 bytes/],
    ["another kind of file", changed((v) => void v.setUint32(0, 1)), "GGUF_INVALID", /magic is 0x.*expected "GGUF"/],
    ["big-endian", changed((v) => void v.setUint32(4, 3)), "GGUF_INVALID", /version is 50331648, expected 2 or 3/],
    ["version 1", changed((v) => void v.setUint32(4, 1, true)), "GGUF_INVALID", /version is 1/],
    [
      "2⁶³ tensors",
      changed(set64(8, 2n ** 63n)),
      "GGUF_INVALID",
      /tensor count is 9223372036854775808, expected at most/,
    ],
    [
      "more tensors than bytes",
      changed(set64(8, 1_000_000n)),
      "GGUF_INVALID",
      /tensor count is 1000000, expected at most/,
    ],
    ["2⁶³ keys", changed(set64(16, 2n ** 63n)), "GGUF_INVALID", /metadata count/],
    ["a key of 2⁶² bytes", changed(set64(24, 2n ** 62n)), "GGUF_INVALID", /length of key 0 is 4611686018427387904/],
    [
      "a text of 2⁵⁰ bytes",
      changed((v, b) => void v.setBigUint64(find(b, "general.architecture") + 24, 2n ** 50n, true)),
      "GGUF_INVALID",
      /length of general.architecture is 1125899906842624, expected at most/,
    ],
    [
      "a list of 2⁴⁰ texts",
      changed((v, b) => void v.setBigUint64(find(b, "test.words") + 10 + 8, 2n ** 40n, true)),
      "GGUF_INVALID",
      /length of test.words is 1099511627776, expected at most/,
    ],
    [
      "a value of no kind",
      changed((v, b) => void v.setUint32(find(b, "test.f64") + 8, 77, true)),
      "GGUF_INVALID",
      /kind of test.f64 is 77/,
    ],
    [
      "a boolean of 3",
      changed((v, b) => void v.setUint8(find(b, "test.flags") + 10 + 4 + 4 + 8, 3)),
      "GGUF_INVALID",
      /test.flags is others, expected bytes 0 or 1/,
    ],
    [
      "a key twice",
      changed((_, b) => void Buffer.from(b.buffer).write("test.i64", find(b, "test.f64"))),
      "GGUF_INVALID",
      /key test.i64 is twice/,
    ],
    [
      "a tensor twice",
      changed((_, b) => void Buffer.from(b.buffer).write("Q4_1", find(b, "Q4_0"))),
      "GGUF_INVALID",
      /tensor Q4_1 is twice/,
    ],
    [
      "a type of no kind",
      changed((v, b) => void v.setUint32(find(b, "Q4_0") + 4 + 4 + 16, 999, true)),
      "GGUF_INVALID",
      /tensor Q4_0: type is 999/,
    ],
    [
      "a type that is not read",
      changed((v, b) => void v.setUint32(find(b, "Q4_0") + 4 + 4 + 16, 16, true)),
      "TENSOR_DTYPE",
      /tensor Q4_0 is IQ2_XXS, expected F32, F16/,
    ],
    [
      "rows that are no whole blocks",
      changed((v, b) => void v.setBigUint64(find(b, "Q4_0") + 4 + 4, 250n, true)),
      "GGUF_INVALID",
      /tensor Q4_0: row is 250, expected a multiple of 32/,
    ],
    [
      "a tensor of 2⁶⁰ values",
      changed((v, b) => void v.setBigUint64(find(b, "Q4_0") + 4 + 4, 2n ** 60n, true)),
      "GGUF_INVALID",
      /tensor Q4_0: shape is 1152921504606846976/,
    ],
    [
      "a tensor over the next",
      changed((v, b) => void v.setBigUint64(find(b, "Q4_0") + 4 + 4, 512n, true)),
      "GGUF_INVALID",
      /offset is \d+, expected at least \d+ \(the end of the tensor before it\)/,
    ],
    [
      "a crooked offset",
      changed((v, b) => void v.setBigUint64(find(b, "Q4_0") + 4 + 4 + 16 + 4, 7n, true)),
      "GGUF_INVALID",
      /offset is 7, expected a multiple of 32/,
    ],
    [
      "nine dimensions",
      changed((v, b) => void v.setUint32(find(b, "Q4_0") + 4, 9, true)),
      "GGUF_INVALID",
      /tensor Q4_0: dimensions is 9/,
    ],
    ["a cut file", changed((_, b) => b.slice(0, b.length - 4096)), "GGUF_INVALID", /expected inside the file's/],
    ["a cut header", changed((_, b) => b.slice(0, 200)), "GGUF_INVALID", /./],
  ])("%s", async (_, bytes, code, message) => {
    const opening = openGguf(memorySource(bytes, "bad.gguf"));
    await expect(opening).rejects.toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });

  test.each<[string, (bytes: Uint8Array) => void, RegExp]>([
    [
      "an architecture that is not read",
      (b) => void Buffer.from(b.buffer).write("mamba", find(b, "llama") + 0),
      /architecture is "mamba"/,
    ],
    [
      "a tensor that no Llama has",
      (b) => void Buffer.from(b.buffer).write("attn_x", find(b, "blk.1.attn_q") + 6),
      /"blk.1.attn_x.weight"/,
    ],
    [
      "an unknown cut of words",
      (b) => void Buffer.from(b.buffer).write("gpt-9", find(b, "gpt-2")),
      /tokenizer.ggml.pre is "gpt-9"/,
    ],
  ])("%s", async (_, change, message) => {
    const bytes = new Uint8Array(fixture("llama-tied.gguf"));
    change(bytes);
    const opening = openGgufModel(memorySource(bytes, "m.gguf"), "m.gguf");
    await expect(opening).rejects.toThrow(
      expect.objectContaining({ code: "MODEL_UNSUPPORTED", message: expect.stringMatching(message) }),
    );
  });
});
