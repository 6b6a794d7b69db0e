// Damaged 4-bit checkpoints: each lie about a quantisation state has its code and names the tensor.

import { expect, test } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import type { NodeFolder } from "../../src/formats/node-files.ts";
import { bytesOf, encodeSafetensors, type TensorToWrite } from "../../src/formats/safetensors.ts";
import { DTYPE_BITS } from "../../src/formats/safetensors-header.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { loadBase } from "../../src/quant/load-base.ts";
import { quantizeCheckpoint } from "../../src/quant/quantize-checkpoint.ts";
import { temporaryFolder, writeTiny } from "./tiny-model.ts";

const WEIGHT = "model.layers.1.mlp.up_proj.weight";
const STATE = `${WEIGHT}.quant_state.bitsandbytes__nf4`;

type Change = (tensor: TensorToWrite) => TensorToWrite | null;

/** A tiny model in NF4 with double quantisation, with one tensor changed or dropped. */
async function damaged(name: string, change: Change): Promise<NodeFolder> {
  const [backend, output, result] = [new ReferenceBackend(), await temporaryFolder(), await temporaryFolder()];
  const source = await openCheckpoint(await writeTiny());
  await quantizeCheckpoint({ checkpoint: source, config: parseModelConfig(source.configJson), backend, output });
  await source.close();
  const checkpoint = await openCheckpoint(output);
  const tensors: TensorToWrite[] = [];
  for (const stored of checkpoint.tensorNames.map((n) => checkpoint.tensor(n))) {
    const { dtype, shape } = stored;
    const tensor = { name: stored.name, dtype, shape, content: await stored.read() };
    const changed = stored.name === name ? change(tensor) : tensor;
    if (changed) tensors.push(changed);
  }
  await checkpoint.close();
  tensors.sort((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype]);
  await result.write("config.json", await output.read("config.json"));
  await result.write("model.safetensors", encodeSafetensors(tensors));
  return result;
}

async function load(folder: NodeFolder): Promise<void> {
  const checkpoint = await openCheckpoint(folder);
  const backend = new ReferenceBackend();
  try {
    const config = parseModelConfig(checkpoint.configJson);
    const identity = { name: "tiny", revision: null, sha256: "0", templateSha256: null };
    (await loadBase({ checkpoint, config, backend, identity })).dispose();
  } finally {
    await checkpoint.close();
    expect(backend.allocatedBytes).toBe(0);
  }
}

const bytes = (text: string) => new TextEncoder().encode(text);
const withBytes =
  (content: Uint8Array): Change =>
  (tensor) => ({ ...tensor, shape: [content.length / (DTYPE_BITS[tensor.dtype] / 8)], content });
const withState =
  (change: Record<string, unknown>): Change =>
  (tensor) => {
    const state = JSON.parse(new TextDecoder().decode(tensor.content as Uint8Array));
    return withBytes(bytes(JSON.stringify({ ...state, ...change })))(tensor);
  };

test("an undamaged one loads", async () => {
  await load(await damaged("none", (tensor) => tensor));
});

const DAMAGES: [string, string, Change, string, RegExp][] = [
  ["a state that is no JSON", STATE, withBytes(bytes("{nf4")), "QUANT_STATE_INVALID", /not valid JSON/],
  ["another block size", STATE, withState({ blocksize: 128 }), "QUANT_STATE_INVALID", /blocksize/],
  [
    "another format than its name says",
    STATE,
    withState({ quant_type: "fp4" }),
    "QUANT_STATE_INVALID",
    /quant_type is fp4/,
  ],
  ["another shape", STATE, withState({ shape: [24, 37] }), "TENSOR_SHAPE", /is \[24, 37\], expected \[37, 24\]/],
  [
    "no offset",
    STATE,
    withState({ nested_offset: undefined }),
    "QUANT_STATE_INVALID",
    /absmax: dtype is U8, expected F32/,
  ],
  ["no scales", `${WEIGHT}.absmax`, () => null, "TENSOR_MISSING", /absmax/],
  ["no second-level scales", `${WEIGHT}.nested_absmax`, () => null, "TENSOR_MISSING", /nested_absmax/],
  [
    "codes that are cut",
    WEIGHT,
    withBytes(new Uint8Array(7)),
    "QUANT_STATE_INVALID",
    /7 bytes are stored, expected 444/,
  ],
  [
    "another code-book",
    `${WEIGHT}.quant_map`,
    withBytes(bytesOf(new Float32Array(16))),
    "QUANT_STATE_INVALID",
    /entry 0 is 0, expected -1/,
  ],
  [
    "scales that are NaN",
    `${WEIGHT}.nested_absmax`,
    withBytes(bytesOf(Float32Array.of(Number.NaN))),
    "TENSOR_NONFINITE",
    /nested_absmax is NaN at element 0/,
  ],
  [
    "a scale map with an infinity",
    `${WEIGHT}.nested_quant_map`,
    withBytes(bytesOf(new Float32Array(256).fill(Number.POSITIVE_INFINITY))),
    "QUANT_STATE_INVALID",
    /nested_quant_map: an entry is not finite/,
  ],
  ["no state: the codes are no weights", STATE, () => null, "TENSOR_SHAPE", /up_proj\.weight is \[444, 1\]/],
];

for (const [name, tensor, change, code, message] of DAMAGES)
  test(`${name} gives ${code}`, async () => {
    const failure = load(await damaged(tensor, change));
    await expect(failure).rejects.toMatchObject({ code });
    await expect(failure).rejects.toThrow(message);
  });
