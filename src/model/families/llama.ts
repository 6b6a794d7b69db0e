// Llama 1, 2 and 3.x, and what is built like them: TinyLlama, SmolLM2. (arXiv 2302.13971; GQA arXiv 2305.13245.) The families
// that grew out of it read what they share with it through `llamaConfig`.

import { z } from "zod";
import type {
  BlockOptions,
  FamilyName,
  FeedForwardOptions,
  LayerOptions,
  ModelConfig,
  RopeOptions,
} from "../config.ts";
import type { ConfigProblems } from "../config-problems.ts";
import { alike, eosList, type Family, field, type TensorNames } from "./family.ts";
import { ROPE_FIELDS, readRope } from "./rope.ts";

/** Fields with the same meaning in every family that grew out of Llama. */
export const LLAMA_FIELDS = {
  architectures: z.array(z.string()).nullish(),
  vocab_size: field.count,
  hidden_size: field.count,
  num_hidden_layers: field.layers,
  num_attention_heads: field.count,
  num_key_value_heads: field.count.nullish(),
  head_dim: field.count.nullish(),
  intermediate_size: field.count,
  hidden_act: field.oneOf("silu", "swish").default("silu"),
  rms_norm_eps: field.eps.default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  ...ROPE_FIELDS,
  bos_token_id: field.tokenId.nullable().default(1),
  eos_token_id: field.eosIds.default(2),
};
type LlamaJson = Omit<z.output<z.ZodObject<typeof LLAMA_FIELDS>>, "hidden_act">;

const SCHEMA = z.object({
  ...LLAMA_FIELDS,
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  sliding_window: field.oneOf(null).optional(),
});

export const LLAMA_TENSORS: TensorNames = {
  embedding: "model.embed_tokens",
  head: "lm_head",
  finalNorm: "model.norm",
  layers: "model.layers",
  linears: {
    q_proj: "self_attn.q_proj",
    k_proj: "self_attn.k_proj",
    v_proj: "self_attn.v_proj",
    o_proj: "self_attn.o_proj",
    gate_proj: "mlp.gate_proj",
    up_proj: "mlp.up_proj",
    down_proj: "mlp.down_proj",
  },
};

export type Sizes = Pick<ModelConfig, "hidden" | "heads" | "kvHeads" | "headDim" | "intermediate">;

/** Which linears have a bias. */
export interface Biases {
  readonly qkv: boolean;
  readonly output: boolean;
  readonly mlp: boolean;
}

export const NO_BIASES: Biases = { qkv: false, output: false, mlp: false };

export const LLAMA_FEED_FORWARD = {
  kind: "gated",
  projection: { kind: "separate", gate: "gate_proj", up: "up_proj" },
  down: "down_proj",
  activation: "silu",
} as const satisfies FeedForwardOptions;

/** The block of Llama. */
export function llamaBlock({ hidden, heads, kvHeads, headDim, intermediate }: Sizes, bias: Biases): BlockOptions {
  const [queries, keys] = [heads * headDim, kvHeads * headDim];
  return {
    residual: "sequential",
    norms: { attention: "input_layernorm", feedForward: "post_attention_layernorm" },
    linears: [
      { name: "q_proj", in: hidden, out: queries, bias: bias.qkv },
      { name: "k_proj", in: hidden, out: keys, bias: bias.qkv },
      { name: "v_proj", in: hidden, out: keys, bias: bias.qkv },
      { name: "o_proj", in: queries, out: hidden, bias: bias.output },
      { name: "gate_proj", in: hidden, out: intermediate, bias: bias.mlp },
      { name: "up_proj", in: hidden, out: intermediate, bias: bias.mlp },
      { name: "down_proj", in: intermediate, out: hidden, bias: bias.mlp },
    ],
    attention: {
      projection: { kind: "separate", query: "q_proj", key: "k_proj", value: "v_proj" },
      output: "o_proj",
      scale: 1 / Math.sqrt(headDim),
      softCap: null,
    },
    feedForward: LLAMA_FEED_FORWARD,
  };
}

/** What a family has of its own. */
export interface LlamaVariant {
  readonly family: FamilyName;
  readonly architecture: string;
  readonly block: (sizes: Sizes) => BlockOptions;
  /** Default: one, over the whole head. */
  readonly ropes?: (sizes: Sizes) => RopeOptions[];
  /** Default: all alike, without a window. */
  readonly perLayer?: readonly LayerOptions[];
}

export function llamaConfig(raw: LlamaJson, problems: ConfigProblems, variant: LlamaVariant): ModelConfig {
  const sizes: Sizes = {
    hidden: raw.hidden_size,
    heads: raw.num_attention_heads,
    kvHeads: raw.num_key_value_heads ?? raw.num_attention_heads,
    headDim: raw.head_dim ?? raw.hidden_size / raw.num_attention_heads,
    intermediate: raw.intermediate_size,
  };
  return {
    family: variant.family,
    architecture: variant.architecture,
    vocabulary: raw.vocab_size,
    ...sizes,
    layers: raw.num_hidden_layers,
    maxPositions: raw.max_position_embeddings,
    tiedEmbeddings: raw.tie_word_embeddings,
    embeddingScale: 1,
    learnedPositions: false,
    logitSoftCap: null,
    norm: { kind: "rms", eps: raw.rms_norm_eps, storedLessOne: false },
    block: variant.block(sizes),
    ropes: variant.ropes?.(sizes) ?? [readRope(raw, sizes.headDim, problems)],
    perLayer: variant.perLayer ?? alike(raw.num_hidden_layers, { rope: 0, window: null }),
    bosId: raw.bos_token_id,
    eosIds: eosList(raw.eos_token_id),
  };
}

export const llama: Family = {
  architectures: ["LlamaForCausalLM"],
  modelType: "llama",
  tensors: LLAMA_TENSORS,
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    const bias = { qkv: raw.attention_bias, output: raw.attention_bias, mlp: raw.mlp_bias };
    return llamaConfig(raw, problems, {
      family: "llama",
      architecture: "LlamaForCausalLM",
      block: (sizes) => llamaBlock(sizes, bias),
    });
  },
};
