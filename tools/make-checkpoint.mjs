// Writes a bf16 checkpoint of a named shape (src/model/named-shapes.ts) with random weights and the bundled base's tokenizer,
// to measure loading with: node tools/make-checkpoint.mjs SHAPE FOLDER [SHARDS [LAYERS]]. Needs dist (`npm run build`).

import { COMPANION_FILES, INDEX_FILE, SINGLE_FILE } from "../dist/formats/checkpoint.js";
import { openFolder } from "../dist/formats/node-files.js";
import { bytesOf, encodeSafetensors, storedBytes } from "../dist/formats/safetensors.js";
import { FAMILIES, linearPath } from "../dist/model/families/index.js";
import { SHAPE_NAMES, shapeJson } from "../dist/model/named-shapes.js";
import { parseModelConfig } from "../dist/model/read-config.js";
import { toBf16 } from "../dist/tensor/dtype.js";
import { bundledBase } from "../dist/verbs/bundled.js";

const [shape, path, shards = "1", layers] = process.argv.slice(2);
if (!SHAPE_NAMES.includes(shape) || !path)
  throw new Error(`usage: make-checkpoint.mjs ${SHAPE_NAMES.join("|")} FOLDER [SHARDS [LAYERS]]`);
const json = { ...shapeJson(shape), ...(layers && { num_hidden_layers: Number(layers) }) };
const config = parseModelConfig(json);
const names = FAMILIES[config.family].tensors;

/** 4 MiB of random normal values, repeated: neither speed nor memory depends on them. */
const normals = Float32Array.from(
  { length: 1 << 21 },
  () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()),
);
const scaled = new Map();
function pattern(deviation, mean) {
  const key = `${deviation},${mean}`;
  if (!scaled.has(key)) scaled.set(key, bytesOf(Uint16Array.from(normals, (x) => toBf16(mean + deviation * x))));
  return scaled.get(key);
}

function tensor(name, dims, deviation, mean = 0) {
  const bytes = storedBytes("BF16", dims);
  const content = function* () {
    const chunk = pattern(deviation, mean);
    for (let at = 0; at < bytes; at += chunk.length) yield chunk.subarray(0, Math.min(chunk.length, bytes - at));
  };
  return { name, dtype: "BF16", shape: dims, content };
}

function* norm(module) {
  yield tensor(`${module}.weight`, [config.hidden], 0.1, 1);
  if (config.norm.kind === "layer") yield tensor(`${module}.bias`, [config.hidden], 0.1);
}

function* linear(path, { out, in: cols, bias }) {
  yield tensor(`${path}.weight`, [out, cols], 0.5 / Math.sqrt(cols));
  if (bias) yield tensor(`${path}.bias`, [out], 0.1);
}

function* tensors() {
  const table = [config.vocabulary, config.hidden];
  yield tensor(`${names.embedding}.weight`, table, 1 / Math.sqrt(config.hidden));
  for (let layer = 0; layer < config.layers; layer++) {
    for (const module of Object.values(config.block.norms)) yield* norm(`${names.layers}.${layer}.${module}`);
    for (const one of config.block.linears) yield* linear(linearPath(config.family, layer, one.name), one);
  }
  yield* norm(names.finalNorm);
  if (!config.tiedEmbeddings) yield tensor(`${names.head}.weight`, table, 1 / Math.sqrt(config.hidden));
}

const folder = await openFolder(path, { write: true });
const text = (value) => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
const bundled = await openFolder(bundledBase());
for (const name of COMPANION_FILES) if (await bundled.exists(name)) await folder.write(name, await bundled.read(name));

const all = [...tensors()];
const count = Number(shards);
const weightMap = {};
for (let shard = 0; shard < count; shard++) {
  const number = (n) => String(n).padStart(5, "0");
  const file = count === 1 ? SINGLE_FILE : `model-${number(shard + 1)}-of-${number(count)}.safetensors`;
  const part = all.slice(Math.round((shard * all.length) / count), Math.round(((shard + 1) * all.length) / count));
  for (const { name } of part) weightMap[name] = file;
  await folder.write(file, encodeSafetensors(part, { format: "pt" }));
}
if (count > 1) await folder.write(INDEX_FILE, text({ metadata: {}, weight_map: weightMap }));
await folder.write("config.json", text({ ...json, torch_dtype: "bfloat16" }));
