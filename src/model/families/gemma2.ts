// Gemma 2 (arXiv 2408.00118): norms before and after both sides, stored less 1; gated GELU; scaled embeddings; caps on scores
// and logits; a sliding window in every second layer, the first one included.

import { z } from "zod";
import type { BlockOptions, ModelConfig } from "../config.ts";
import { type Family, field, layerKinds, WINDOW_FIELDS } from "./family.ts";
import { LLAMA_FEED_FORWARD, LLAMA_FIELDS, LLAMA_TENSORS, llamaBlock, llamaConfig, type Sizes } from "./llama.ts";

const cap = field.positive.nullable();

/** Gemma 2 and 3. */
export const GEMMA_FIELDS = {
  ...LLAMA_FIELDS,
  head_dim: field.count.default(256),
  /** An older name, which the files of Gemma 2 carry too and which is not read. */
  hidden_act: z.unknown().optional(),
  hidden_activation: field.oneOf("gelu_pytorch_tanh").default("gelu_pytorch_tanh"),
  tie_word_embeddings: z.boolean().default(true),
  attention_bias: z.boolean().default(false),
  query_pre_attn_scalar: field.positive.default(256),
  ...WINDOW_FIELDS,
  sliding_window: field.count.nullish().default(4096),
  use_bidirectional_attention: field.oneOf(false, null).optional(),
  bos_token_id: field.tokenId.nullable().default(2),
  eos_token_id: field.eosIds.default(1),
};

const SCHEMA = z.object({
  ...GEMMA_FIELDS,
  max_position_embeddings: field.count.default(8192),
  attn_logit_softcapping: cap.default(50),
  final_logit_softcapping: cap.default(30),
});

interface GemmaJson {
  readonly attention_bias: boolean;
  readonly query_pre_attn_scalar: number;
  readonly attn_logit_softcapping: number | null;
}

export function gemmaBlock(raw: GemmaJson, sizes: Sizes): BlockOptions {
  const block = llamaBlock(sizes, { qkv: raw.attention_bias, output: raw.attention_bias, mlp: false });
  return {
    ...block,
    norms: {
      attention: "input_layernorm",
      attentionOutput: "post_attention_layernorm",
      feedForward: "pre_feedforward_layernorm",
      feedForwardOutput: "post_feedforward_layernorm",
    },
    attention: {
      ...block.attention,
      scale: raw.query_pre_attn_scalar ** -0.5,
      softCap: raw.attn_logit_softcapping,
    },
    feedForward: { ...LLAMA_FEED_FORWARD, activation: "gelu-tanh" },
  };
}

/** What both Gemmas have beside their blocks. */
export const asGemma = (config: ModelConfig, logitSoftCap: number | null): ModelConfig => ({
  ...config,
  embeddingScale: Math.sqrt(config.hidden),
  logitSoftCap,
  norm: { ...config.norm, storedLessOne: true },
});

export const gemma2: Family = {
  architectures: ["Gemma2ForCausalLM"],
  modelType: "gemma2",
  tensors: LLAMA_TENSORS,
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    const kinds = layerKinds(raw, raw.num_hidden_layers, (layer) => layer % 2 === 0, problems);
    const config = llamaConfig(raw, problems, {
      family: "gemma2",
      architecture: "Gemma2ForCausalLM",
      block: (sizes) => gemmaBlock(raw, sizes),
      perLayer: kinds.map(({ window }) => ({ rope: 0, window })),
    });
    return asGemma(config, raw.final_logit_softcapping);
  },
};
