// What llama.cpp calls an architecture: how its tensors are named and what became of them on conversion, beside the model
// of transformers that it came from. (llama.cpp's gguf-py/gguf/tensor_mapping.py and conversion/*.py.)

import type { MetadataReader } from "./gguf-metadata.ts";

export interface GgufArchitecture {
  /** Class and type in config.json. */
  readonly hfClass: string;
  readonly modelType: string;
  /** Tensors of a block: name in GGUF → name in transformers, both without ".weight" and without the block's prefix. */
  readonly blocks: Readonly<Record<string, string>>;
  /** Whether rows of q and k are interleaved (gguf-rotary.ts). */
  readonly interleaved: boolean;
  /** Whether norms are stored with the 1 that Gemma adds when it uses them. */
  readonly normsPlusOne?: boolean;
  /** Further settings of config.json, out of the metadata and what was read of it. */
  readonly settings?: (read: MetadataReader, sizes: GgufSizes) => Record<string, unknown>;
}

export interface GgufSizes {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly headDim: number;
}

const BLOCKS = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
} as const;

const GEMMA_BLOCKS = {
  ...BLOCKS,
  post_attention_norm: "post_attention_layernorm",
  ffn_norm: "pre_feedforward_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
} as const;

/** llama.cpp knows Gemma's largest model by its layers; there scores are scaled by the width of a head of the residual stream. */
const gemma =
  (layersOfLargest: number) =>
  (read: MetadataReader, { hidden, layers, heads, headDim }: GgufSizes): Record<string, unknown> => ({
    hidden_act: undefined,
    hidden_activation: "gelu_pytorch_tanh",
    query_pre_attn_scalar: layers === layersOfLargest ? hidden / heads : headDim,
    attn_logit_softcapping: read.own("attn_logit_softcapping"),
    final_logit_softcapping: read.own("final_logit_softcapping"),
    sliding_window: read.own("attention.sliding_window"),
  });

export const GGUF_ARCHITECTURES: Readonly<Record<string, GgufArchitecture>> = {
  llama: { hfClass: "LlamaForCausalLM", modelType: "llama", blocks: BLOCKS, interleaved: true },
  qwen2: { hfClass: "Qwen2ForCausalLM", modelType: "qwen2", blocks: BLOCKS, interleaved: false },
  qwen3: {
    hfClass: "Qwen3ForCausalLM",
    modelType: "qwen3",
    blocks: { ...BLOCKS, attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm" },
    interleaved: false,
  },
  gemma2: {
    hfClass: "Gemma2ForCausalLM",
    modelType: "gemma2",
    blocks: GEMMA_BLOCKS,
    interleaved: false,
    normsPlusOne: true,
    settings: gemma(46),
  },
  gemma3: {
    hfClass: "Gemma3ForCausalLM",
    modelType: "gemma3_text",
    blocks: { ...GEMMA_BLOCKS, attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm" },
    interleaved: false,
    normsPlusOne: true,
    settings: (read, sizes) => ({
      ...gemma(62)(read, sizes),
      rope_local_base_freq: read.own("rope.freq_base_swa") ?? 10_000,
    }),
  },
};

const OUTER: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

/** Tensors that hold no weights of the model: tables of angles. */
const TABLES = /^(?:rope_freqs|blk\.\d+\.attn_rot_embd)\.weight$/;

/** The name in transformers of a tensor of GGUF: "blk.0.attn_q.weight" → "model.layers.0.self_attn.q_proj.weight". */
export function hfTensorName(name: string, { blocks }: GgufArchitecture): string | "table" | null {
  if (TABLES.test(name)) return "table";
  const block = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name);
  if (block) {
    const inner = blocks[block[2]!];
    return inner === undefined ? null : `model.layers.${block[1]}.${inner}.${block[3]}`;
  }
  const outer = /^(\w+)\.(weight|bias)$/.exec(name);
  const found = outer && OUTER[outer[1]!];
  return found ? `${found}.${outer[2]}` : null;
}

/** The name in GGUF of a tensor or module of transformers ("model.layers.0.self_attn.q_proj"), or null. */
export function ggufTensorName(hfName: string, { blocks }: GgufArchitecture): string | null {
  const [, path, suffix] = /^(.*?)(\.weight|\.bias)?$/.exec(hfName)!;
  const block = /^model\.layers\.(\d+)\.(.+)$/.exec(path!);
  const table = block ? blocks : OUTER;
  const wanted = block ? block[2] : path;
  const found = Object.keys(table).find((name) => table[name] === wanted);
  if (found === undefined) return null;
  return `${block ? `blk.${block[1]}.` : ""}${found}${suffix ?? ""}`;
}

/** Whether the rows of this tensor of transformers are interleaved in GGUF. */
export function isInterleaved(hfName: string, { interleaved }: GgufArchitecture): boolean {
  return interleaved && /\.self_attn\.[qk]_proj(?:\.|$)/.test(hfName);
}

/** The architecture of GGUF for a class in config.json's `architectures`. */
export function ggufArchitectureOf(hfClass: string): string | null {
  // Mistral without its sliding window is computed as Llama, and converted so.
  const wanted = hfClass === "MistralForCausalLM" ? "LlamaForCausalLM" : hfClass;
  return Object.keys(GGUF_ARCHITECTURES).find((name) => GGUF_ARCHITECTURES[name]!.hfClass === wanted) ?? null;
}
