// Phi 3 and 3.5 mini, Phi 4 (arXiv 2404.14219): Llama's block with q, k and v in one linear and gate and up in another; part
// of a head may be rotated only; frequencies divided one by one for long contexts.

import { z } from "zod";
import { alike, type Family, field, type TensorNames } from "./family.ts";
import { LLAMA_FIELDS, LLAMA_TENSORS, llamaBlock, llamaConfig, NO_BIASES, type Sizes } from "./llama.ts";

const SCHEMA = z.object({
  ...LLAMA_FIELDS,
  rms_norm_eps: field.eps.default(1e-5),
  max_position_embeddings: field.count.default(4096),
  original_max_position_embeddings: field.count.default(4096),
  sliding_window: field.count.nullable().default(null),
  eos_token_id: field.eosIds.default(32_000),
});

const TENSORS: TensorNames = {
  ...LLAMA_TENSORS,
  linears: {
    qkv_proj: "self_attn.qkv_proj",
    o_proj: "self_attn.o_proj",
    gate_up_proj: "mlp.gate_up_proj",
    down_proj: "mlp.down_proj",
  },
};

export const phi3: Family = {
  architectures: ["Phi3ForCausalLM"],
  modelType: "phi3",
  tensors: TENSORS,
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    return llamaConfig(raw, problems, {
      family: "phi3",
      architecture: "Phi3ForCausalLM",
      block: phiBlock,
      perLayer: alike(raw.num_hidden_layers, { rope: 0, window: raw.sliding_window }),
    });
  },
};

function phiBlock(sizes: Sizes) {
  const { hidden, heads, kvHeads, headDim, intermediate } = sizes;
  const block = llamaBlock(sizes, NO_BIASES);
  return {
    ...block,
    linears: [
      { name: "qkv_proj", in: hidden, out: (heads + 2 * kvHeads) * headDim, bias: false },
      { name: "o_proj", in: heads * headDim, out: hidden, bias: false },
      { name: "gate_up_proj", in: hidden, out: 2 * intermediate, bias: false },
      { name: "down_proj", in: intermediate, out: hidden, bias: false },
    ],
    attention: { ...block.attention, projection: { kind: "fused", linear: "qkv_proj", groups: 1 } as const },
    feedForward: {
      kind: "gated",
      projection: { kind: "fused", linear: "gate_up_proj" },
      down: "down_proj",
      activation: "silu",
    } as const,
  };
}
