// What is written equals what llama.cpp's own converters write of the same model and adapter (tools/gguf-fixtures.py).

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { memorySource } from "../../src/formats/byte-source.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { toF32 } from "../../src/formats/float-convert.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { openGgufModel } from "../../src/formats/gguf-model.ts";
import { encodeGguf, u32 } from "../../src/formats/gguf-write.ts";
import { ggufAdapter } from "../../src/formats/gguf-write-adapter.ts";
import { ggufModel, ggufShapeOf } from "../../src/formats/gguf-write-model.ts";
import { memoryFolder } from "../../src/formats/memory-folder.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import { openPeft } from "../../src/formats/peft.ts";
import { readTokenizer } from "../../src/tokenizer/read.ts";

const FIXTURES = new URL("../fixtures/", import.meta.url);
const fixture = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(name, FIXTURES)));

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk.slice());
  return new Uint8Array(Buffer.concat(parts));
}

const TOKENIZER_CONFIG = {
  bos_token: "<s>",
  eos_token: "</s>",
  chat_template: "{% for m in messages %}{{ m['content'] }}{% endfor %}",
};

/** The Hugging Face folder of a fixture's model. */
async function original(name: string, tokenizer = "byte-level", tokenizerConfig: object = TOKENIZER_CONFIG) {
  const files = {
    "config.json": fixture(`gguf/${name}.config.json`),
    "model.safetensors": fixture(`gguf/${name}.safetensors`),
    "tokenizer.json": fixture(`tokenizer-tiny/${tokenizer}.json`),
    "tokenizer_config.json": new TextEncoder().encode(JSON.stringify(tokenizerConfig)),
  };
  return openCheckpoint(memoryFolder(name, new Map(Object.entries(files))));
}

const written = async (name: string): Promise<Uint8Array> =>
  collect(await ggufModel({ checkpoint: await original(name), name, dtype: () => "f16" }));

describe.each(["llama-tied", "llama3-rope", "qwen2", "qwen3", "gemma2", "gemma3"])("%s", (name) => {
  test("has the converter's tensors, to the byte", async () => {
    const ours = await openGguf(memorySource(await written(name)));
    const theirs = await openGguf(memorySource(fixture(`gguf/${name}.gguf`)));
    expect([...ours.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
    for (const [key, tensor] of theirs.tensors) {
      const found = ours.tensors.get(key)!;
      expect([key, found.type, found.shape]).toEqual([key, tensor.type, tensor.shape]);
      // The table of angles comes out of other arithmetic.
      if (key === "rope_freqs.weight") {
        const [a, b] = await Promise.all([found.read(), tensor.read()]).then((both) =>
          both.map((x) => new Float32Array(x.slice().buffer)),
        );
        for (const [i, value] of b!.entries()) expect(a![i]! / value).toBeCloseTo(1, 5);
      } else expect(Buffer.compare(await found.read(), await tensor.read()), key).toBe(0);
    }
  });

  test("has the converter's metadata, but for what describes the conversion", async () => {
    const ours = (await openGguf(memorySource(await written(name)))).metadata;
    const theirs = (await openGguf(memorySource(fixture(`gguf/${name}.gguf`)))).metadata;
    const own = new Set(["general.name", "general.size_label", "general.finetune", "general.sampling.temp"]);
    const keys = [...theirs.keys()].filter((key) => !own.has(key) && !key.startsWith("general.sampling"));
    expect(keys.length).toBeGreaterThan(15);
    for (const key of keys) {
      // A converter that reads the class's own tokenizer settings: no space is put before texts in byte-level BPE anyhow.
      if (key === "tokenizer.ggml.add_space_prefix") continue;
      // Gemma's config.json names a padding token that its tokenizer here does not.
      if (name.startsWith("gemma") && key === "tokenizer.ggml.padding_token_id") continue;
      // transformers' class for Qwen 2 adds <|endoftext|> to every vocabulary.
      if (name === "qwen2" && /tokenizer\.ggml\.(tokens|token_type)/.test(key)) continue;
      expect(ours.get(key), key).toEqual(theirs.get(key));
    }
  });

  test("is read back as the model that it was", async () => {
    const checkpoint = await original(name);
    const back = await openGgufModel(memorySource(await written(name)), "m.gguf");
    expect([...back.tensorNames].sort()).toEqual([...checkpoint.tensorNames].sort());
    for (const tensor of back.tensorNames) {
      const [a, b] = [back.tensor(tensor), checkpoint.tensor(tensor)];
      // Gemma's norms pass through 1 + w.
      if (name.startsWith("gemma") && tensor.endsWith("norm.weight")) continue;
      expect(toF32(a.dtype as "F16", await a.read()), tensor).toEqual(toF32(b.dtype as "F16", await b.read()));
      expect(a.dtype).toBe(a.shape.length === 1 ? "F32" : "F16");
    }
  });
});

test("equal input gives equal bytes", async () => {
  expect(Buffer.compare(await written("llama-tied"), await written("llama-tied"))).toBe(0);
});

test("a SentencePiece tokenizer comes back with the same ids", async () => {
  const config = { ...TOKENIZER_CONFIG, unk_token: "<unk>" };
  const checkpoint = await original("llama-tied", "sentencepiece", config);
  const bytes = await collect(await ggufModel({ checkpoint, name: "m", dtype: () => "f16" }));
  const back = await readTokenizer((await openGgufModel(memorySource(bytes), "m.gguf")).folder);
  const before = await readTokenizer(checkpoint.folder);
  const texts = [
    "The cat sat on the mat.",
    " two  spaces\n\n",
    "naïve 日本 👩‍👩‍👧",
    "</s>x<s>",
    "What is two plus two?",
    "",
  ];
  for (const text of texts)
    for (const options of [{ addSpecial: true }, { addSpecial: false }, { addSpecial: false, continuation: true }]) {
      const ids = [...back.encode(text, options)];
      expect(ids).toEqual([...before.encode(text, options)]);
      expect(back.decode(ids, { skipSpecial: true })).toBe(before.decode(ids, { skipSpecial: true }));
    }
  expect([back.addsBos, back.bosId, back.eosIds]).toEqual([before.addsBos, before.bosId, before.eosIds]);
});

test("a tokenizer that llama.cpp has no name for is refused", async () => {
  const json = JSON.parse(new TextDecoder().decode(fixture("tokenizer-tiny/byte-level.json")));
  const odd = { ...json, pre_tokenizer: { type: "Whitespace" } };
  const checkpoint = await original("llama-tied");
  const files = new Map([["tokenizer.json", new TextEncoder().encode(JSON.stringify(odd))]]);
  const writing = ggufModel({
    checkpoint: { ...checkpoint, folder: memoryFolder("m", files) },
    name: "m",
    dtype: () => "f16",
  });
  await expect(writing).rejects.toThrow(expect.objectContaining({ code: "TOKENIZER_INVALID" }));
});

test("a model of another class is refused", () => {
  const config = JSON.parse(new TextDecoder().decode(fixture("gguf/llama-tied.config.json")));
  expect(() => ggufShapeOf({ ...config, architectures: ["MambaForCausalLM"] }, "m")).toThrow(
    expect.objectContaining({ code: "MODEL_UNSUPPORTED" }),
  );
});

test("a Mistral is written as the Llama that it is without a window, and refused with one", () => {
  const config = JSON.parse(new TextDecoder().decode(fixture("gguf/llama-tied.config.json")));
  const mistral = { ...config, architectures: ["MistralForCausalLM"] };
  expect(ggufShapeOf({ ...mistral, sliding_window: null }, "m").name).toBe("llama");
  expect(() => ggufShapeOf({ ...mistral, sliding_window: 64 }, "m")).toThrow(
    expect.objectContaining({ code: "MODEL_UNSUPPORTED", message: expect.stringContaining("sliding_window is 64") }),
  );
});

describe("an adapter", () => {
  const folder = () => openFolder(fileURLToPath(new URL("gguf/adapter", FIXTURES)));
  const shape = ggufShapeOf(JSON.parse(new TextDecoder().decode(fixture("gguf/llama-tied.config.json"))), "m");

  test("has the tensors, architecture and alpha of llama.cpp's converter, to the byte", async () => {
    const peft = await openPeft(await folder());
    const ours = await openGguf(memorySource(await collect(ggufAdapter(peft, "a", shape, () => "f32"))));
    const theirs = await openGguf(memorySource(fixture("gguf/adapter.gguf")));
    await peft.close();
    expect(theirs.tensors.size).toBe(2 * 2 * 7);
    expect([...ours.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
    for (const [key, tensor] of theirs.tensors) {
      expect(ours.tensors.get(key)).toMatchObject({ type: tensor.type, shape: tensor.shape });
      expect(Buffer.compare(await ours.tensors.get(key)!.read(), await tensor.read()), key).toBe(0);
    }
    for (const key of ["general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"])
      expect(ours.metadata.get(key), key).toEqual(theirs.metadata.get(key));
  });

  test("of rslora has the alpha that llama.cpp scales to the same", async () => {
    const peft = await openPeft(await folder());
    const bytes = await collect(ggufAdapter({ ...peft, useRslora: true }, "a", shape, () => "f16"));
    await peft.close();
    const { metadata, tensors } = await openGguf(memorySource(bytes));
    expect((metadata.get("adapter.lora.alpha") as number) / peft.rank).toBeCloseTo(
      peft.loraAlpha / Math.sqrt(peft.rank),
      5,
    );
    expect([...tensors.values()].every(({ type }) => type === "F16")).toBe(true);
  });
});

test("content of another size than its shape is a bug that is named", async () => {
  const tensor = { name: "t", type: "F32" as const, shape: [2, 3], content: () => [new Uint8Array(20)] };
  await expect(collect(encodeGguf([["k", u32(1)]], [tensor]))).rejects.toThrow(/tensor "t" has 20 bytes, expected 24/);
});
