// Gemma 3's text model (arXiv 2503.19786): Gemma 2's block with a norm on every query and key head, no caps by default, and
// five layers with a window to one without; the two kinds have rotary embeddings of their own.

import { z } from "zod";
import { type Family, field, layerKinds } from "./family.ts";
import { asGemma, GEMMA_FIELDS, gemmaBlock } from "./gemma2.ts";
import { LLAMA_TENSORS, llamaConfig } from "./llama.ts";
import { ROPE, ropeOptions } from "./rope.ts";

const THETA = { full: 1_000_000, sliding: 10_000 };

const SCHEMA = z.object({
  ...GEMMA_FIELDS,
  max_position_embeddings: field.count.default(131_072),
  /** One layer in so many sees everything. */
  sliding_window_pattern: field.count.default(6),
  attn_logit_softcapping: field.positive.nullable().default(null),
  final_logit_softcapping: field.positive.nullable().default(null),
  /** Of the layers without a window; the others are never scaled. */
  rope_scaling: ROPE.nullish(),
  rope_local_base_freq: field.positive.nullish(),
  /** How transformers 5 writes both. */
  rope_parameters: z.object({ full_attention: ROPE.nullish(), sliding_attention: ROPE.nullish() }).nullish(),
});

export const gemma3: Family = {
  architectures: ["Gemma3ForCausalLM"],
  modelType: "gemma3_text",
  tensors: LLAMA_TENSORS,
  read(json, problems) {
    const { rope_parameters: both, ...raw } = problems.parse(SCHEMA, json);
    const isSliding = (layer: number): boolean => (layer + 1) % raw.sliding_window_pattern !== 0;
    const kinds = layerKinds(raw, raw.num_hidden_layers, isSliding, problems);
    const full = both?.full_attention ?? raw.rope_scaling ?? {};
    const sliding = both?.sliding_attention ?? {};
    const config = llamaConfig(raw, problems, {
      family: "gemma3",
      architecture: "Gemma3ForCausalLM",
      block: (sizes) => {
        const block = gemmaBlock(raw, sizes);
        return { ...block, norms: { ...block.norms, query: "self_attn.q_norm", key: "self_attn.k_norm" } };
      },
      ropes: ({ headDim: dims }) => {
        const rest = { raw, dims, problems };
        return [
          ropeOptions({
            ...rest,
            key: "rope_scaling",
            rope: full,
            theta: full.rope_theta ?? raw.rope_theta ?? THETA.full,
          }),
          ropeOptions({
            ...rest,
            key: "rope_parameters.sliding_attention",
            rope: sliding,
            theta: sliding.rope_theta ?? raw.rope_local_base_freq ?? THETA.sliding,
          }),
        ];
      },
      perLayer: kinds.map(({ window, sliding }) => ({ rope: sliding ? 1 : 0, window })),
    });
    return asGemma(config, raw.final_logit_softcapping);
  },
};
