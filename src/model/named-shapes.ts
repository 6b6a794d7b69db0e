// Shapes of published models, for benchmarks with random weights: the lines of their config.json that say how large they are
// and how they compute. Tokens are left away: no text is read.

import type { ModelConfig } from "./config.ts";
import { parseModelConfig } from "./read-config.ts";

type Json = Readonly<Record<string, unknown>>;

const NO_TOKENS = { bos_token_id: null, eos_token_id: null };

const llama = (
  hidden_size: number,
  num_hidden_layers: number,
  [num_attention_heads, num_key_value_heads]: readonly [number, number],
  intermediate_size: number,
  vocab_size: number,
  rest: Json = {},
): Json => ({
  architectures: ["LlamaForCausalLM"],
  ...{ hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, intermediate_size, vocab_size },
  rms_norm_eps: 1e-5,
  ...NO_TOKENS,
  ...rest,
});

/** Several key/value heads are the new decoder architecture; the feed-forward is four times as wide as the stream. */
const falcon = (
  hidden_size: number,
  num_hidden_layers: number,
  [num_attention_heads, num_kv_heads]: readonly [number, number],
): Json => ({
  architectures: ["FalconForCausalLM"],
  ...{ hidden_size, num_hidden_layers, num_attention_heads, num_kv_heads, vocab_size: 65024 },
  new_decoder_architecture: num_kv_heads > 1,
  ...NO_TOKENS,
});

const LLAMA3 = { rope_theta: 500_000, max_position_embeddings: 8192 };
const QWEN2 = { architectures: ["Qwen2ForCausalLM"], rms_norm_eps: 1e-6, rope_theta: 1_000_000 };

/** From the config.json of the model on the hub that each comment names. */
const SHAPES = {
  /** The bundled base. */
  tiny: llama(256, 6, [4, 2], 704, 2048, { tie_word_embeddings: true }),
  /** HuggingFaceTB/SmolLM2-135M */
  "smollm2-135m": llama(576, 30, [9, 3], 1536, 49152, { tie_word_embeddings: true, rope_theta: 100_000 }),
  /** HuggingFaceTB/SmolLM2-360M */
  "smollm2-360m": llama(960, 32, [15, 5], 2560, 49152, { tie_word_embeddings: true, rope_theta: 100_000 }),
  /** TinyLlama/TinyLlama-1.1B */
  "tinyllama-1.1b": llama(2048, 22, [32, 4], 5632, 32000),
  /** huggyllama/llama-7b */
  "llama-7b": llama(4096, 32, [32, 32], 11008, 32000),
  /** huggyllama/llama-13b */
  "llama-13b": llama(5120, 40, [40, 40], 13824, 32000),
  /** meta-llama/Llama-2-70b-hf */
  "llama2-70b": llama(8192, 80, [64, 8], 28672, 32000, { max_position_embeddings: 4096 }),
  /** meta-llama/Meta-Llama-3-8B */
  "llama3-8b": llama(4096, 32, [32, 8], 14336, 128256, LLAMA3),
  /** mistralai/Mistral-7B-v0.1 */
  "mistral-7b": llama(4096, 32, [32, 8], 14336, 32000, {
    architectures: ["MistralForCausalLM"],
    sliding_window: 4096,
    max_position_embeddings: 32768,
  }),
  /** Qwen/Qwen2.5-0.5B */
  "qwen2.5-0.5b": llama(896, 24, [14, 2], 4864, 151936, { ...QWEN2, tie_word_embeddings: true }),
  /** Qwen/Qwen2.5-7B */
  "qwen2.5-7b": llama(3584, 28, [28, 4], 18944, 152064, QWEN2),
  /** Qwen/Qwen3-8B */
  "qwen3-8b": llama(4096, 36, [32, 8], 12288, 151936, {
    ...QWEN2,
    architectures: ["Qwen3ForCausalLM"],
    head_dim: 128,
  }),
  /** google/gemma-2-2b */
  "gemma2-2b": llama(2304, 26, [8, 4], 9216, 256000, {
    architectures: ["Gemma2ForCausalLM"],
    rms_norm_eps: 1e-6,
    head_dim: 256,
    tie_word_embeddings: true,
  }),
  /** microsoft/Phi-3-mini-4k-instruct */
  "phi3-mini": llama(3072, 32, [32, 32], 8192, 32064, {
    architectures: ["Phi3ForCausalLM"],
    sliding_window: 2047,
    max_position_embeddings: 4096,
  }),
  /** tiiuae/falcon-7b */
  "falcon-7b": falcon(4544, 32, [71, 1]),
  /** tiiuae/falcon-40b */
  "falcon-40b": falcon(8192, 60, [128, 8]),
} as const satisfies Record<string, Json>;

export type ShapeName = keyof typeof SHAPES;
export const SHAPE_NAMES = Object.keys(SHAPES) as [ShapeName, ...ShapeName[]];

/** Its config.json. */
export const shapeJson = (name: ShapeName): Json => SHAPES[name];

export const namedShape = (name: ShapeName): ModelConfig => parseModelConfig(shapeJson(name), name);
