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

const SHAPES = {
  /** The bundled base. */
  tiny: llama(256, 6, [4, 2], 704, 2048, { tie_word_embeddings: true }),
  "smollm2-135m": llama(576, 30, [9, 3], 1536, 49152, { tie_word_embeddings: true, rope_theta: 100_000 }),
  "smollm2-360m": llama(960, 32, [15, 5], 2560, 49152, { tie_word_embeddings: true, rope_theta: 100_000 }),
  "tinyllama-1.1b": llama(2048, 22, [32, 4], 5632, 32000),
  "llama-7b": llama(4096, 32, [32, 32], 11008, 32000),
} as const satisfies Record<string, Json>;

export type ShapeName = keyof typeof SHAPES;
export const SHAPE_NAMES = Object.keys(SHAPES) as [ShapeName, ...ShapeName[]];

/** Its config.json. */
export const shapeJson = (name: ShapeName): Json => SHAPES[name];

export const namedShape = (name: ShapeName): ModelConfig => parseModelConfig(shapeJson(name), name);
