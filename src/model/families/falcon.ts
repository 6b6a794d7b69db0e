// Falcon (arXiv 2311.16867): attention and feed-forward side by side, LayerNorm, GELU, all of q, k and v from one linear. The
// "new decoder architecture" (40B, 180B, 11B) has several key/value heads and, but for 11B, a norm for each side; 7B has one
// key/value head and one norm; RW models without ALiBi are sequential.

import { z } from "zod";
import type { BlockOptions, ModelConfig } from "../config.ts";
import type { ConfigProblems } from "../config-problems.ts";
import { alike, eosList, type Family, field } from "./family.ts";
import { ROPE_FIELDS, readRope } from "./rope.ts";

const SCHEMA = z.object({
  architectures: z.array(z.string()).nullish(),
  vocab_size: field.count,
  hidden_size: field.count,
  num_hidden_layers: field.layers,
  num_attention_heads: field.count,
  num_kv_heads: field.count.nullish(),
  ffn_hidden_size: field.count.nullish(),
  activation: field.oneOf("gelu").default("gelu"),
  layer_norm_epsilon: field.eps.default(1e-5),
  tie_word_embeddings: z.boolean().default(true),
  alibi: field.oneOf(false).optional(),
  new_decoder_architecture: z.boolean().default(false),
  num_ln_in_parallel_attn: z.union([z.literal(1), z.literal(2)]).nullish(),
  multi_query: z.boolean().default(true),
  parallel_attn: z.boolean().default(true),
  bias: z.boolean().default(false),
  apply_residual_connection_post_layernorm: field.oneOf(false).optional(),
  ...ROPE_FIELDS,
  bos_token_id: field.tokenId.nullable().default(11),
  eos_token_id: field.eosIds.default(11),
});
type Raw = z.output<typeof SCHEMA>;

export const falcon: Family = {
  architectures: ["FalconForCausalLM"],
  modelType: "falcon",
  tensors: {
    embedding: "transformer.word_embeddings",
    head: "lm_head",
    finalNorm: "transformer.ln_f",
    layers: "transformer.h",
    linears: {
      query_key_value: "self_attention.query_key_value",
      dense: "self_attention.dense",
      dense_h_to_4h: "mlp.dense_h_to_4h",
      dense_4h_to_h: "mlp.dense_4h_to_h",
    },
  },
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    const heads = raw.num_attention_heads;
    const sizes = {
      hidden: raw.hidden_size,
      heads,
      kvHeads: raw.new_decoder_architecture ? (raw.num_kv_heads ?? heads) : raw.multi_query ? 1 : heads,
      headDim: raw.hidden_size / heads,
      intermediate: raw.ffn_hidden_size ?? 4 * raw.hidden_size,
    };
    return {
      family: "falcon",
      architecture: "FalconForCausalLM",
      vocabulary: raw.vocab_size,
      ...sizes,
      layers: raw.num_hidden_layers,
      maxPositions: raw.max_position_embeddings,
      tiedEmbeddings: raw.tie_word_embeddings,
      embeddingScale: 1,
      learnedPositions: false,
      logitSoftCap: null,
      norm: { kind: "layer", eps: raw.layer_norm_epsilon, storedLessOne: false },
      block: block(raw, sizes, problems),
      ropes: [readRope(raw, sizes.headDim, problems)],
      perLayer: alike(raw.num_hidden_layers, { rope: 0, window: null }),
      bosId: raw.bos_token_id,
      eosIds: eosList(raw.eos_token_id),
    };
  },
};

type Sizes = Pick<ModelConfig, "hidden" | "kvHeads" | "headDim" | "intermediate">;

function block(raw: Raw, { hidden, kvHeads, headDim, intermediate }: Sizes, problems: ConfigProblems): BlockOptions {
  const { bias } = raw;
  return {
    residual: raw.parallel_attn ? "parallel" : "sequential",
    norms: norms(raw, problems),
    linears: [
      { name: "query_key_value", in: hidden, out: hidden + 2 * kvHeads * headDim, bias },
      { name: "dense", in: hidden, out: hidden, bias },
      { name: "dense_h_to_4h", in: hidden, out: intermediate, bias },
      { name: "dense_4h_to_h", in: intermediate, out: hidden, bias },
    ],
    attention: {
      // A group per key/value head: its query heads, its key, its value.
      projection: { kind: "fused", linear: "query_key_value", groups: kvHeads },
      output: "dense",
      scale: 1 / Math.sqrt(headDim),
      softCap: null,
    },
    feedForward: { kind: "plain", up: "dense_h_to_4h", down: "dense_4h_to_h", gelu: "erf" },
  };
}

function norms(raw: Raw, problems: ConfigProblems): BlockOptions["norms"] {
  const { new_decoder_architecture: isNew, parallel_attn: parallel, num_ln_in_parallel_attn: count } = raw;
  if (isNew && !parallel) problems.unsupported("parallel_attn", false, "true with new_decoder_architecture");
  if (!isNew && count === 2)
    problems.unsupported("num_ln_in_parallel_attn", 2, "1 or null without new_decoder_architecture");
  if (!parallel) return { attention: "input_layernorm", feedForward: "post_attention_layernorm" };
  return isNew && count !== 1 ? { attention: "ln_attn", feedForward: "ln_mlp" } : { attention: "input_layernorm" };
}
