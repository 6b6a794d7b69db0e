// Qwen 3 (arXiv 2505.09388): Llama's block with a norm on every query and key head before they are rotated.

import { z } from "zod";
import { type Family, field } from "./family.ts";
import { LLAMA_TENSORS, llamaBlock, llamaConfig } from "./llama.ts";
import { QWEN_FIELDS, qwenLayers } from "./qwen2.ts";

const SCHEMA = z.object({
  ...QWEN_FIELDS,
  head_dim: field.count.default(128),
  attention_bias: z.boolean().default(false),
});

export const qwen3: Family = {
  architectures: ["Qwen3ForCausalLM"],
  modelType: "qwen3",
  tensors: LLAMA_TENSORS,
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    return llamaConfig(raw, problems, {
      family: "qwen3",
      architecture: "Qwen3ForCausalLM",
      block: (sizes) => {
        const block = llamaBlock(sizes, { qkv: raw.attention_bias, output: raw.attention_bias, mlp: false });
        return { ...block, norms: { ...block.norms, query: "self_attn.q_norm", key: "self_attn.k_norm" } };
      },
      perLayer: qwenLayers(raw, problems),
    });
  },
};
