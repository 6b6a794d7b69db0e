import { expect, test } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import type { Folder } from "../../src/formats/folder.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { loadBase } from "../../src/quant/load-base.ts";
import { type QuantizeOptions, quantizeCheckpoint } from "../../src/quant/quantize-checkpoint.ts";
import { replaceTensor, type TinyOptions, temporaryFolder, writeTiny } from "./tiny-model.ts";

const text = (value: string) => new TextEncoder().encode(value);

async function quantize(source: Folder, options: Partial<QuantizeOptions> = {}) {
  const output = options.output ?? (await temporaryFolder());
  const checkpoint = await openCheckpoint(source);
  const backend = new ReferenceBackend();
  try {
    const config = parseModelConfig(checkpoint.configJson);
    return { output, result: await quantizeCheckpoint({ checkpoint, config, backend, output, ...options }) };
  } finally {
    await checkpoint.close();
    expect(backend.allocatedBytes).toBe(0);
  }
}

async function load(folder: Folder, format: "nf4" | "fp4", doubleQuant: boolean, backend: ReferenceBackend) {
  const checkpoint = await openCheckpoint(folder);
  const config = parseModelConfig(checkpoint.configJson);
  const identity = { name: "tiny", revision: null, sha256: "0", templateSha256: null };
  const base = await loadBase({ checkpoint, config, backend, format, doubleQuant, identity, computeDtype: "bf16" });
  await checkpoint.close();
  return base;
}

/** The whole buffer of a base, and all numbers outside it. */
async function everything(base: FrozenModel, backend: ReferenceBackend) {
  const offsets = base.layers.map((layer) => Object.values(layer.linears).map(({ weight }) => weight));
  const numbers = JSON.stringify(offsets, (key, value) => (key === "buffer" ? undefined : value));
  return { numbers, identity: base.identity, bytes: await backend.read(base.embedding.buffer, 0, base.bytes) };
}

const SOURCES: [string, TinyOptions][] = [
  ["BF16", { dtype: "BF16" }],
  ["F16, tied, with biases", { dtype: "F16", tied: true, attentionBias: true }],
  ["F32 in shards", { dtype: "F32", shards: 3 }],
];

for (const [name, options] of SOURCES)
  for (const format of ["nf4", "fp4"] as const)
    for (const doubleQuant of [true, false])
      test(`${name} → ${format}${doubleQuant ? ", double" : ""}: reads back as the source does, to the bit`, async () => {
        const source = await writeTiny(options);
        const { output, result } = await quantize(source, { format, doubleQuant });
        const backend = new ReferenceBackend();
        const theirs = await everything(await load(output, format, doubleQuant, backend), backend);
        const ours = await everything(await load(source, format, doubleQuant, backend), backend);
        expect(theirs.numbers).toBe(ours.numbers);
        expect(theirs.identity).toEqual(ours.identity);
        expect(Buffer.compare(theirs.bytes, ours.bytes)).toBe(0);
        expect(result.sourceBytes).toBeGreaterThan(0);
      });

/** Small models of every way in which linears, norms and positions are stored. */
const FAMILIES = ["falcon-40b", "falcon-rw", "qwen3", "gemma2", "phi3", "gpt-neox", "gpt2"];

test.each(FAMILIES)("%s reads back as the source does, to the bit", async (name) => {
  const source = await openFolder(`test/fixtures/parity/models/${name}`);
  const { output } = await quantize(source);
  const backend = new ReferenceBackend();
  const theirs = await everything(await load(output, "nf4", true, backend), backend);
  const ours = await everything(await load(source, "nf4", true, backend), backend);
  expect(theirs.numbers).toBe(ours.numbers);
  expect(Buffer.compare(theirs.bytes, ours.bytes)).toBe(0);
});

test("the same source gives the same bytes, and another format another config", async () => {
  const source = await writeTiny();
  const [a, b] = [await quantize(source), await quantize(source)];
  for (const file of await a.output.list()) expect(await a.output.read(file)).toEqual(await b.output.read(file));
  const config = JSON.parse(new TextDecoder().decode(await a.output.read("config.json")));
  expect(config).toMatchObject({
    vocab_size: 19,
    dtype: "bfloat16",
    quantization_config: { quant_method: "bitsandbytes", load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
  });
});

test("companion files are copied, config.json comes last, progress reaches its total", async () => {
  const source = await writeTiny();
  await source.write("tokenizer.json", text("{}"));
  await source.write("chat_template.jinja", text("{{ x }}"));
  await source.write("README.md", text("not copied"));
  const progress: number[] = [];
  const { output, result } = await quantize(source, { onProgress: ({ doneBytes }) => progress.push(doneBytes) });
  expect(result.files).toEqual(["model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"]);
  expect(await output.list()).toEqual([...result.files].sort());
  expect(progress.at(-1)).toBe(result.sourceBytes);
});

test("a full disk leaves no model behind", async () => {
  const { path } = await temporaryFolder();
  const hook = (point: string) => {
    if (point === "half-written") throw Object.assign(new Error("no space"), { code: "ENOSPC" });
  };
  const output = await openFolder(path, { write: true, hook });
  await expect(quantize(await writeTiny(), { output })).rejects.toMatchObject({ code: "WRITE_FAILED" });
  expect(await output.list()).toEqual([]);
});

test("a NaN in the source stops the work with its own code, and leaves no model behind", async () => {
  const poison: TinyOptions["change"] = (tensors) =>
    replaceTensor(tensors, "lm_head.weight", (t) => ({ ...t, content: new Uint8Array(19 * 24 * 2).fill(0xff) }));
  const output = await temporaryFolder();
  const failure = quantize(await writeTiny({ change: poison }), { output });
  await expect(failure).rejects.toMatchObject({
    code: "TENSOR_NONFINITE",
    details: { tensor: "lm_head.weight", index: 0 },
  });
  expect(await output.list()).toEqual([]);
});

test("a folder with a model and a model that is 4-bit already are refused", async () => {
  const { output } = await quantize(await writeTiny());
  await expect(quantize(await writeTiny(), { output })).rejects.toMatchObject({ code: "FILE_EXISTS" });
  await expect(quantize(output)).rejects.toMatchObject({ code: "CONFIG_INVALID" });
});
