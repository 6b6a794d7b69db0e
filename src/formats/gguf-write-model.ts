// A checkpoint → one GGUF file that llama.cpp runs: names, order of rows and metadata as its own converter writes them.

import { z } from "zod";
import { QdlError } from "../errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { type FloatDType, firstNonFinite, toF32 } from "./float-convert.ts";
import {
  GGUF_ARCHITECTURES,
  type GgufArchitecture,
  ggufArchitectureOf,
  ggufTensorName,
  isInterleaved,
} from "./gguf-architecture.ts";
import { type Llama3Rule, llama3Factors } from "./gguf-config.ts";
import { halvedRow, permutedRows } from "./gguf-rotary.ts";
import { shifted } from "./gguf-shift.ts";
import { encodeGguf, f32, type GgufTensorToWrite, u32, type ValueToWrite } from "./gguf-write.ts";
import { tokenizerMetadata } from "./gguf-write-tokenizer.ts";
import { encodeFloats, type OutputDType, STORED } from "./output-dtype.ts";
import { bytesOf, type StoredTensor } from "./safetensors.ts";
import { DTYPE_BITS } from "./safetensors-header.ts";

type Entry = readonly [string, ValueToWrite];

/** The settings of config.json that GGUF has keys for. */
const CONFIG = z.looseObject({
  architectures: z.array(z.string()).min(1),
  vocab_size: z.int(),
  hidden_size: z.int(),
  num_hidden_layers: z.int(),
  num_attention_heads: z.int(),
  num_key_value_heads: z.int().nullish(),
  head_dim: z.int().nullish(),
  intermediate_size: z.int(),
  max_position_embeddings: z.int().default(2048),
  rms_norm_eps: z.number().default(1e-6),
  attn_logit_softcapping: z.number().nullish(),
  final_logit_softcapping: z.number().nullish(),
  sliding_window: z.int().nullish(),
  rope_theta: z.number().nullish(),
  rope_local_base_freq: z.number().nullish(),
  rope_scaling: z.looseObject({}).nullish(),
  rope_parameters: z.looseObject({}).nullish(),
});
type Config = z.infer<typeof CONFIG>;

/** What GGUF needs to know of a model to name and order its tensors. */
export interface GgufShape {
  /** general.architecture */
  readonly name: string;
  readonly architecture: GgufArchitecture;
  readonly headDim: number;
}

/** Throws MODEL_UNSUPPORTED if the model's class has no place in GGUF here. */
export function ggufShapeOf(configJson: unknown, path: string): GgufShape {
  return shapeOf(parseConfig(configJson, path), path);
}

function shapeOf(config: Config, path: string): GgufShape {
  const hfClass = config.architectures[0]!;
  const name = ggufArchitectureOf(hfClass);
  const window = config.sliding_window ?? config.max_position_embeddings;
  if (hfClass === "MistralForCausalLM" && window < config.max_position_embeddings)
    throw new QdlError(
      "MODEL_UNSUPPORTED",
      `${path}: sliding_window is ${window}, expected none: GGUF has no key for it`,
      {
        hint: "Use a Mistral without a window (v0.2 and later); llama.cpp would compute another model than was trained.",
        details: { path, slidingWindow: window },
      },
    );
  if (name !== null)
    return { name, architecture: GGUF_ARCHITECTURES[name]!, headDim: config.head_dim ?? headDimOf(config) };
  const known = Object.values(GGUF_ARCHITECTURES).map((architecture) => architecture.hfClass);
  throw new QdlError(
    "MODEL_UNSUPPORTED",
    `${path}: ${hfClass} cannot be written as GGUF, expected ${known.join(", ")}`,
    {
      hint: "Export a Hugging Face folder and convert it with llama.cpp's convert_hf_to_gguf.py.",
      details: { path, architecture: hfClass },
    },
  );
}

const headDimOf = (config: Config): number => config.hidden_size / config.num_attention_heads;

export interface GgufModelToWrite {
  readonly checkpoint: Checkpoint;
  /** general.name */
  readonly name: string;
  /** Dtype of a matrix by transformers' name; vectors are always f32, as llama.cpp wants them. */
  readonly dtype: (hfName: string) => OutputDType;
}

/**
 * The bytes of the file, streamed: one chunk of one tensor at a time.
 * Throws MODEL_UNSUPPORTED, TENSOR_MISSING, TENSOR_NONFINITE, TOKENIZER_INVALID.
 */
export async function ggufModel(options: GgufModelToWrite): Promise<AsyncGenerator<Uint8Array>> {
  const { checkpoint, dtype } = options;
  const config = parseConfig(checkpoint.configJson, checkpoint.name);
  const shape = shapeOf(config, checkpoint.name);
  const tensors = [...ropeTable(config, shape), ...weights(checkpoint, config, shape, dtype)];
  const rows = checkpoint.tensor("model.embed_tokens.weight").shape[0]!;
  const metadata: Entry[] = [
    ["general.architecture", shape.name],
    ["general.type", "model"],
    ["general.name", options.name],
    ["general.file_type", u32(FILE_TYPES[dtype("model.embed_tokens.weight")])],
    ["general.quantization_version", u32(2)],
    ...architectureEntries(config, shape, rows),
    ...(await tokenizerMetadata(checkpoint.folder, rows)),
  ];
  return encodeGguf(metadata, tensors);
}

/** llama.cpp's numbers for "mostly of this type". */
const FILE_TYPES: Readonly<Record<OutputDType, number>> = { f32: 0, f16: 1, bf16: 32 };

function parseConfig(configJson: unknown, path: string): Config {
  const result = CONFIG.safeParse(configJson);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new QdlError("MODEL_CONFIG_INVALID", `${path}: config.json: ${issue!.path.join(".")}: ${issue!.message}`);
}

/** Of the layers without a window, where the two kinds have their own. */
function ropeOf({ rope_parameters: both, rope_scaling }: Config): Record<string, unknown> {
  return (both?.full_attention as Record<string, unknown> | undefined) ?? both ?? rope_scaling ?? {};
}
const thetaOf = (config: Config): number => (ropeOf(config).rope_theta as number) ?? config.rope_theta ?? 10_000;

/** Of the layers with a window, where they have their own. */
function localThetaOf({ rope_parameters: both, rope_local_base_freq }: Config): number | undefined {
  const sliding = both?.sliding_attention as { readonly rope_theta?: number } | undefined;
  return sliding?.rope_theta ?? rope_local_base_freq ?? undefined;
}

function architectureEntries(config: Config, { name, headDim }: GgufShape, rows: number): Entry[] {
  const key = (suffix: string, value: ValueToWrite): Entry => [`${name}.${suffix}`, value];
  const rope = ropeOf(config);
  const linear = (rope.rope_type ?? rope.type) === "linear";
  const given = (suffix: string, value: number | null | undefined): Entry[] =>
    typeof value === "number" ? [key(suffix, f32(value))] : [];
  const { attn_logit_softcapping: scores, final_logit_softcapping: logits, sliding_window: window } = config;
  return [
    key("vocab_size", u32(rows)),
    key("context_length", u32(config.max_position_embeddings)),
    key("embedding_length", u32(config.hidden_size)),
    key("block_count", u32(config.num_hidden_layers)),
    key("feed_forward_length", u32(config.intermediate_size)),
    key("attention.head_count", u32(config.num_attention_heads)),
    key("attention.head_count_kv", u32(config.num_key_value_heads ?? config.num_attention_heads)),
    key("attention.key_length", u32(headDim)),
    key("attention.value_length", u32(headDim)),
    key("attention.layer_norm_rms_epsilon", f32(config.rms_norm_eps)),
    key("rope.dimension_count", u32(headDim)),
    key("rope.freq_base", f32(thetaOf(config))),
    ...given("rope.freq_base_swa", localThetaOf(config)),
    ...given("attn_logit_softcapping", scores),
    ...given("final_logit_softcapping", logits),
    ...(name.startsWith("gemma") && typeof window === "number" ? [key("attention.sliding_window", u32(window))] : []),
    ...(linear ? [key("rope.scaling.type", "linear"), key("rope.scaling.factor", f32(rope.factor as number))] : []),
  ];
}

/** Llama 3's rule is stored as the factors that it comes to. */
function ropeTable(config: Config, { headDim }: GgufShape): GgufTensorToWrite[] {
  const rope = ropeOf(config);
  if ((rope.rope_type ?? rope.type) !== "llama3") return [];
  const factors = llama3Factors(thetaOf(config), headDim, rope as unknown as Llama3Rule);
  return [{ name: "rope_freqs.weight", type: "F32", shape: [factors.length], content: () => [bytesOf(factors)] }];
}

function weights(
  checkpoint: Checkpoint,
  config: Config,
  { architecture, headDim }: GgufShape,
  dtype: (hfName: string) => OutputDType,
): GgufTensorToWrite[] {
  const blocks = Array.from({ length: config.num_hidden_layers }, (_, layer) =>
    Object.values(architecture.blocks).map((inner) => `model.layers.${layer}.${inner}`),
  );
  const modules = ["model.embed_tokens", ...blocks.flat(), "model.norm"];
  // A head that is tied to the embedding is not stored, and llama.cpp takes the embedding then.
  const names = [...modules.map((module) => `${module}.weight`), "lm_head.weight"];
  const optional = [...modules.map((module) => `${module}.bias`), "lm_head.weight"].filter(
    (name) => checkpoint.find(name) !== null,
  );
  const present = [...new Set([...names.filter((name) => name !== "lm_head.weight"), ...optional])];
  return present.map((hfName) => {
    const stored = checkpoint.tensor(hfName);
    const isNorm = /norm\.weight$/.test(hfName);
    const ordered = isInterleaved(hfName, architecture)
      ? permutedRows(stored, headDim, halvedRow)
      : architecture.normsPlusOne && isNorm
        ? shifted(stored, 1)
        : stored;
    return tensorToWrite(
      ggufTensorName(hfName, architecture)!,
      ordered,
      stored.shape.length === 1 ? "f32" : dtype(hfName),
    );
  });
}

/** Values converted at a time. */
const CHUNK_VALUES = 1 << 20;

function tensorToWrite(name: string, tensor: StoredTensor, dtype: OutputDType): GgufTensorToWrite {
  const stored = tensor.dtype as FloatDType;
  const chunk = (CHUNK_VALUES * DTYPE_BITS[stored]) / 8;
  return {
    name,
    type: STORED[dtype],
    shape: tensor.shape,
    content: async function* () {
      for (let at = 0; at < tensor.bytes; at += chunk) {
        const bytes = await tensor.read(at, Math.min(chunk, tensor.bytes - at));
        requireFinite(tensor, stored, bytes);
        yield stored === STORED[dtype] ? bytes : encodeFloats(name, toF32(stored, bytes), dtype);
      }
    },
  };
}

function requireFinite(tensor: StoredTensor, dtype: FloatDType, bytes: Uint8Array): void {
  if (firstNonFinite(dtype, bytes) < 0) return;
  throw new QdlError("TENSOR_NONFINITE", `${tensor.file}: ${tensor.name} holds NaN or infinity, expected numbers`, {
    hint: "The checkpoint is damaged or its training diverged; use another one.",
    details: { path: tensor.file, tensor: tensor.name },
  });
}
