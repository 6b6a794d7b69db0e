// GPT-2: learned positions, LayerNorm, GELU by tanh, biases everywhere, weights stored [in, out], q, k and v in one linear.

import { z } from "zod";
import { eosList, type Family, field } from "./family.ts";

const SCHEMA = z.object({
  architectures: z.array(z.string()).nullish(),
  vocab_size: field.count,
  n_embd: field.count,
  n_layer: field.layers,
  n_head: field.count,
  n_inner: field.count.nullish(),
  n_positions: field.count.default(1024),
  activation_function: field.oneOf("gelu_new", "gelu", "gelu_pytorch_tanh").default("gelu_new"),
  layer_norm_epsilon: field.eps.default(1e-5),
  tie_word_embeddings: z.boolean().default(true),
  scale_attn_weights: z.boolean().default(true),
  scale_attn_by_inverse_layer_idx: field.oneOf(false).optional(),
  add_cross_attention: field.oneOf(false).optional(),
  bos_token_id: field.tokenId.nullable().default(50256),
  eos_token_id: field.eosIds.default(50256),
});

export const gpt2: Family = {
  architectures: ["GPT2LMHeadModel"],
  modelType: "gpt2",
  tensors: {
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    head: "lm_head",
    finalNorm: "transformer.ln_f",
    layers: "transformer.h",
    // Both halves of a block call their last linear c_proj.
    linears: {
      c_attn: "attn.c_attn",
      "attn.c_proj": "attn.c_proj",
      c_fc: "mlp.c_fc",
      "mlp.c_proj": "mlp.c_proj",
    },
    transposed: true,
  },
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    const { n_embd: hidden, n_head: heads } = raw;
    const intermediate = raw.n_inner ?? 4 * hidden;
    return {
      family: "gpt2",
      architecture: "GPT2LMHeadModel",
      vocabulary: raw.vocab_size,
      ...{ hidden, heads, kvHeads: heads, headDim: hidden / heads, intermediate },
      layers: raw.n_layer,
      maxPositions: raw.n_positions,
      tiedEmbeddings: raw.tie_word_embeddings,
      embeddingScale: 1,
      learnedPositions: true,
      logitSoftCap: null,
      norm: { kind: "layer", eps: raw.layer_norm_epsilon, storedLessOne: false },
      block: {
        residual: "sequential",
        norms: { attention: "ln_1", feedForward: "ln_2" },
        linears: [
          { name: "c_attn", in: hidden, out: 3 * hidden, bias: true },
          { name: "attn.c_proj", in: hidden, out: hidden, bias: true },
          { name: "c_fc", in: hidden, out: intermediate, bias: true },
          { name: "mlp.c_proj", in: intermediate, out: hidden, bias: true },
        ],
        attention: {
          projection: { kind: "fused", linear: "c_attn", groups: 1 },
          output: "attn.c_proj",
          scale: raw.scale_attn_weights ? (hidden / heads) ** -0.5 : 1,
          softCap: null,
        },
        feedForward: {
          kind: "plain",
          up: "c_fc",
          down: "mlp.c_proj",
          gelu: raw.activation_function === "gelu" ? "erf" : "tanh",
        },
      },
      ropes: [],
      perLayer: Array.from({ length: raw.n_layer }, () => ({ rope: null, window: null })),
      bosId: raw.bos_token_id,
      eosIds: eosList(raw.eos_token_id),
    };
  },
};
