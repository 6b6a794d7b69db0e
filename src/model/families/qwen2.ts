// Qwen 2 and 2.5 (arXiv 2407.10671): Llama's block with biases on q, k and v; the upper layers may have a sliding window.

import { z } from "zod";
import { type Family, field, layerKinds, WINDOW_FIELDS } from "./family.ts";
import { LLAMA_FIELDS, LLAMA_TENSORS, llamaBlock, llamaConfig } from "./llama.ts";

/** Windows as Qwen's config.json has them: named, but used only if it says so. */
export const QWEN_FIELDS = {
  ...LLAMA_FIELDS,
  max_position_embeddings: field.count.default(32_768),
  ...WINDOW_FIELDS,
  use_sliding_window: z.boolean().default(false),
  max_window_layers: z.int().min(0).default(28),
  bos_token_id: field.tokenId.nullable().default(null),
  eos_token_id: field.eosIds.default(null),
};
type QwenJson = z.output<z.ZodObject<typeof QWEN_FIELDS>>;

const SCHEMA = z.object(QWEN_FIELDS);

export function qwenLayers(raw: QwenJson, problems: Parameters<typeof layerKinds>[3]) {
  const sliding_window = raw.use_sliding_window ? raw.sliding_window : null;
  const isSliding = (layer: number): boolean => layer >= raw.max_window_layers;
  const kinds = layerKinds({ ...raw, sliding_window }, raw.num_hidden_layers, isSliding, problems);
  return kinds.map(({ window }) => ({ rope: 0, window }));
}

export const qwen2: Family = {
  architectures: ["Qwen2ForCausalLM"],
  modelType: "qwen2",
  tensors: LLAMA_TENSORS,
  read(json, problems) {
    const raw = problems.parse(SCHEMA, json);
    return llamaConfig(raw, problems, {
      family: "qwen2",
      architecture: "Qwen2ForCausalLM",
      block: (sizes) => llamaBlock(sizes, { qkv: true, output: false, mlp: false }),
      perLayer: qwenLayers(raw, problems),
    });
  },
};
