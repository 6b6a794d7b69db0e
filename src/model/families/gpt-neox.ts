// GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): attention and feed-forward side by side with a LayerNorm each, GELU, q, k
// and v of every head next to each other in one linear, a quarter of each head rotated.

import { z } from "zod";
import { alike, eosList, type Family, field } from "./family.ts";
import { ROPE_FIELDS, readRope } from "./rope.ts";

const SCHEMA = z.object({
  architectures: z.array(z.string()).nullish(),
  vocab_size: field.count,
  hidden_size: field.count,
  num_hidden_layers: field.layers,
  num_attention_heads: field.count,
  intermediate_size: field.count,
  hidden_act: field.oneOf("gelu", "gelu_new").default("gelu"),
  layer_norm_eps: field.eps.default(1e-5),
  tie_word_embeddings: z.boolean().default(false),
  use_parallel_residual: z.boolean().default(true),
  attention_bias: z.boolean().default(true),
  ...ROPE_FIELDS,
  rotary_emb_base: field.positive.nullish(),
  rotary_pct: z.number().positive().max(1).nullish(),
  bos_token_id: field.tokenId.nullable().default(0),
  eos_token_id: field.eosIds.default(2),
});

export const gptNeox: Family = {
  architectures: ["GPTNeoXForCausalLM"],
  modelType: "gpt_neox",
  tensors: {
    embedding: "gpt_neox.embed_in",
    head: "embed_out",
    finalNorm: "gpt_neox.final_layer_norm",
    layers: "gpt_neox.layers",
    linears: {
      query_key_value: "attention.query_key_value",
      dense: "attention.dense",
      dense_h_to_4h: "mlp.dense_h_to_4h",
      dense_4h_to_h: "mlp.dense_4h_to_h",
    },
  },
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    const {
      hidden_size: hidden,
      num_attention_heads: heads,
      intermediate_size: intermediate,
      attention_bias: bias,
    } = raw;
    const headDim = hidden / heads;
    const defaults = { theta: raw.rotary_emb_base ?? 10_000, share: raw.rotary_pct ?? 0.25 };
    return {
      family: "gpt-neox",
      architecture: "GPTNeoXForCausalLM",
      vocabulary: raw.vocab_size,
      ...{ hidden, heads, kvHeads: heads, headDim, intermediate },
      layers: raw.num_hidden_layers,
      maxPositions: raw.max_position_embeddings,
      tiedEmbeddings: raw.tie_word_embeddings,
      embeddingScale: 1,
      learnedPositions: false,
      logitSoftCap: null,
      norm: { kind: "layer", eps: raw.layer_norm_eps, storedLessOne: false },
      block: {
        residual: raw.use_parallel_residual ? "parallel" : "sequential",
        norms: { attention: "input_layernorm", feedForward: "post_attention_layernorm" },
        linears: [
          { name: "query_key_value", in: hidden, out: 3 * hidden, bias },
          { name: "dense", in: hidden, out: hidden, bias },
          { name: "dense_h_to_4h", in: hidden, out: intermediate, bias: true },
          { name: "dense_4h_to_h", in: intermediate, out: hidden, bias: true },
        ],
        attention: {
          projection: { kind: "fused", linear: "query_key_value", groups: heads },
          output: "dense",
          scale: 1 / Math.sqrt(headDim),
          softCap: null,
        },
        feedForward: {
          kind: "plain",
          up: "dense_h_to_4h",
          down: "dense_4h_to_h",
          gelu: raw.hidden_act === "gelu" ? "erf" : "tanh",
        },
      },
      ropes: [readRope(raw, headDim, problems, defaults)],
      perLayer: alike(raw.num_hidden_layers, { rope: 0, window: null }),
      bosId: raw.bos_token_id,
      eosIds: eosList(raw.eos_token_id),
    };
  },
};
