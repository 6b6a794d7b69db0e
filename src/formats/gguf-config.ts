// GGUF metadata ↔ config.json. Reading gives the config.json that the model had before conversion, as far as the metadata
// tells, so that everything after sees one kind of model; writing is the reverse.

import type { GgufFile } from "./gguf.ts";
import type { GgufArchitecture } from "./gguf-architecture.ts";
import type { MetadataReader } from "./gguf-metadata.ts";

/** config.json of the model in `file`. `ropeFactors`: f32 values of rope_freqs.weight, or null. Throws GGUF_INVALID, MODEL_UNSUPPORTED. */
export function configFromGguf(
  file: Pick<GgufFile, "tensors">,
  read: MetadataReader,
  architecture: GgufArchitecture,
  ropeFactors: Float32Array | null,
): Record<string, unknown> {
  const experts = read.own("expert_count") ?? 0;
  if (experts > 0) throw read.unsupported(`${read.architecture}.expert_count`, experts, "0 (no mixture of experts)");
  const hidden = read.need("embedding_length");
  const heads = read.need("attention.head_count");
  const headDim = read.own("attention.key_length") ?? hidden / heads;
  const rotary = read.own("rope.dimension_count") ?? headDim;
  const eos = [read.number("tokenizer.ggml.eos_token_id"), read.number("tokenizer.ggml.eot_token_id")];
  const eosIds = [...new Set(eos.filter((id) => id !== null))];
  return {
    architectures: [architecture.hfClass],
    model_type: architecture.modelType,
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0] ?? 0,
    hidden_size: hidden,
    num_hidden_layers: read.need("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: read.own("attention.head_count_kv") ?? heads,
    head_dim: headDim,
    ...(rotary === headDim ? {} : { partial_rotary_factor: rotary / headDim }),
    intermediate_size: read.need("feed_forward_length"),
    max_position_embeddings: read.need("context_length"),
    rms_norm_eps: shortest(read.need("attention.layer_norm_rms_epsilon")),
    rope_theta: read.own("rope.freq_base") ?? 10_000,
    rope_scaling: ropeScaling(read, headDim, ropeFactors),
    tie_word_embeddings: !file.tensors.has("output.weight"),
    hidden_act: "silu",
    attention_bias: file.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: file.tensors.has("blk.0.ffn_up.bias"),
    bos_token_id: read.number("tokenizer.ggml.bos_token_id"),
    eos_token_id: eosIds.length === 0 ? null : eosIds.length === 1 ? eosIds[0] : eosIds,
    ...architecture.settings?.(read, { hidden, layers: read.need("block_count"), heads, headDim }),
  };
}

/** The shortest decimal that is this f32: 1e-5 rather than 9.999999747378752e-6. */
export function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}

/** The settings of Llama 3's rule that published models use; the factors themselves are what a GGUF stores. */
const LLAMA3_RULE = { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 } as const;

function ropeScaling(read: MetadataReader, headDim: number, factors: Float32Array | null): unknown {
  const type = read.text(`${read.architecture}.rope.scaling.type`);
  if (factors === null) {
    if (type === null || type === "none") return null;
    return { rope_type: type, factor: read.own("rope.scaling.factor") ?? undefined };
  }
  const factor = shortest(factors.reduce((most, value) => Math.max(most, value), 1));
  const rule = { rope_type: "llama3", factor, ...LLAMA3_RULE };
  const expected = llama3Factors(read.own("rope.freq_base") ?? 10_000, headDim, rule);
  const same = expected.length === factors.length && expected.every((value, i) => close(value, factors[i]!));
  if (same) return rule;
  throw read.unsupported("rope_freqs.weight", "other factors", "those of Llama 3's rule for contexts of 8192");
}

const close = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-4 * Math.abs(b);

export interface Llama3Rule {
  readonly factor: number;
  readonly low_freq_factor: number;
  readonly high_freq_factor: number;
  readonly original_max_position_embeddings: number;
}

/** By what each of the headDim/2 angles is divided (llama.cpp's conversion/llama.py; transformers' _compute_llama3_parameters). */
export function llama3Factors(theta: number, headDim: number, rule: Llama3Rule): Float32Array {
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: length } = rule;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
    if (wavelength < length / high) return 1;
    if (wavelength > length / low) return factor;
    const smooth = (length / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}
