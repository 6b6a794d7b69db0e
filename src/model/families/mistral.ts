// Mistral (arXiv 2310.06825): Llama's block with a sliding window in every layer, where config.json names one.

import { z } from "zod";
import { alike, type Family, field } from "./family.ts";
import { LLAMA_FIELDS, LLAMA_TENSORS, llamaBlock, llamaConfig, NO_BIASES } from "./llama.ts";

const SCHEMA = z.object({
  ...LLAMA_FIELDS,
  num_key_value_heads: field.count.nullish().default(8),
  max_position_embeddings: field.count.default(131_072),
  sliding_window: field.count.nullable().default(4096),
  layer_types: field.oneOf(null).optional(),
});

export const mistral: Family = {
  architectures: ["MistralForCausalLM"],
  modelType: "mistral",
  tensors: LLAMA_TENSORS,
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    return llamaConfig(raw, problems, {
      family: "mistral",
      architecture: "MistralForCausalLM",
      block: (sizes) => llamaBlock(sizes, NO_BIASES),
      perLayer: alike(raw.num_hidden_layers, { rope: 0, window: raw.sliding_window }),
    });
  },
};
