// A small Llama-shaped checkpoint of seeded numbers, in any dtype, written as files. Sizes are odd on purpose.

import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { narrow, toF32 } from "../../src/formats/float-convert.ts";
import { type NodeFolder, openFolder } from "../../src/formats/node-files.ts";
import { bytesOf, encodeSafetensors, type TensorToWrite } from "../../src/formats/safetensors.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { linearPath } from "../../src/model/families/index.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";

export interface TinyOptions {
  readonly dtype?: "F32" | "BF16" | "F16";
  readonly tied?: boolean;
  readonly attentionBias?: boolean;
  /** Changes the list of tensors before it is written. */
  readonly change?: (tensors: TensorToWrite[]) => TensorToWrite[];
  readonly config?: Readonly<Record<string, unknown>>;
  /** Name prefix instead of "model.". */
  readonly prefix?: string;
  readonly shards?: number;
}

export const TINY_JSON = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 19,
  hidden_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 6,
  intermediate_size: 37,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 2,
};

export function tinyJson(options: TinyOptions): Record<string, unknown> {
  const attention_bias = options.attentionBias ?? false;
  return { ...TINY_JSON, tie_word_embeddings: options.tied ?? false, attention_bias, ...options.config };
}

export async function temporaryFolder(): Promise<NodeFolder> {
  return openFolder(await mkdtemp(join(tmpdir(), "qdl-")), { write: true });
}

/** Values of the named tensor, the same for every dtype before rounding: uniform in ±0.1. */
export function tinyValues(name: string, count: number): Float32Array {
  let state = [...name].reduce((hash, c) => Math.imul(hash ^ c.charCodeAt(0), 16777619) >>> 0, 2166136261);
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32 - 0.5) * 0.2;
  });
}

export function encodeValues(values: Float32Array, dtype: "F32" | "BF16" | "F16"): Uint8Array {
  if (dtype === "F32") return bytesOf(values);
  if (dtype === "BF16") return bytesOf(narrow(values));
  // Multiples of 2⁻²⁴ below 2⁻¹⁴ are the subnormal halves: exact, and enough to test reading.
  return bytesOf(Uint16Array.from(values, (v) => (Math.round(Math.abs(v) * 5000) & 0x3ff) | (v < 0 ? 0x8000 : 0)));
}

export function decodeValues(bytes: Uint8Array, dtype: "F32" | "BF16" | "F16"): Float32Array {
  return toF32(dtype, bytes);
}

export function tinyTensors(options: TinyOptions, config: ModelConfig): TensorToWrite[] {
  const dtype = options.dtype ?? "BF16";
  const prefix = options.prefix ?? "model.";
  const tensors: TensorToWrite[] = [];
  const add = (name: string, ...shape: number[]) => {
    const content = encodeValues(
      tinyValues(
        name,
        shape.reduce((a, b) => a * b),
      ),
      dtype,
    );
    tensors.push({ name: name.replace(/^model\./, prefix), dtype, shape, content });
  };
  add("model.embed_tokens.weight", config.vocabulary, config.hidden);
  if (!config.tiedEmbeddings) add("lm_head.weight", config.vocabulary, config.hidden);
  add("model.norm.weight", config.hidden);
  for (let i = 0; i < config.layers; i++) {
    add(`model.layers.${i}.input_layernorm.weight`, config.hidden);
    add(`model.layers.${i}.post_attention_layernorm.weight`, config.hidden);
    for (const { name, in: cols, out: rows, bias } of config.block.linears) {
      const path = linearPath("llama", i, name);
      add(`${path}.weight`, rows, cols);
      if (bias) add(`${path}.bias`, rows);
    }
  }
  return tensors;
}

/** Writes the checkpoint and returns its folder. */
export async function writeTiny(options: TinyOptions = {}): Promise<NodeFolder> {
  const folder = await temporaryFolder();
  const json = tinyJson(options);
  await folder.write("config.json", new TextEncoder().encode(JSON.stringify(json)));
  // Tensors follow the sizes above, whatever `config` overrides: that is how the two are made to disagree.
  const made = tinyTensors(options, parseModelConfig(tinyJson({ ...options, config: {} })));
  const tensors = options.change ? options.change(made) : made;
  const shards = options.shards ?? 1;
  if (shards === 1) {
    await folder.write("model.safetensors", encodeSafetensors(tensors, { format: "pt" }));
    return folder;
  }
  const map: Record<string, string> = {};
  for (let s = 0; s < shards; s++) {
    const file = `model-${s + 1}-of-${shards}.safetensors`;
    const part = tensors.filter((_, i) => i % shards === s);
    for (const { name } of part) map[name] = file;
    await folder.write(file, encodeSafetensors(part));
  }
  const index = JSON.stringify({ metadata: {}, weight_map: map });
  await folder.write("model.safetensors.index.json", new TextEncoder().encode(index));
  return folder;
}

/** Writes the values of one tensor of a list again. */
export function replaceTensor(
  tensors: TensorToWrite[],
  name: string,
  change: (tensor: TensorToWrite) => TensorToWrite | null,
): TensorToWrite[] {
  return tensors.flatMap((tensor) => (tensor.name === name ? (change(tensor) ?? []) : tensor));
}

/** Index of the first element that is not equal to the bit, or −1. */
export function firstDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return 0;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return i;
  return -1;
}
