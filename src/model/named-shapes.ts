// Shapes of published models, for benchmarks with random weights. Numbers from their config.json.

import type { ModelConfig } from "./config.ts";

const llama = (
  shape: Pick<ModelConfig, "vocabulary" | "hidden" | "layers" | "heads" | "kvHeads" | "intermediate"> &
    Partial<ModelConfig>,
): ModelConfig => ({
  family: "llama",
  architecture: "LlamaForCausalLM",
  headDim: shape.hidden / shape.heads,
  maxPositions: 2048,
  normEps: 1e-5,
  tiedEmbeddings: false,
  ropeTheta: 10_000,
  ropeScaling: { kind: "none" },
  attentionBias: false,
  mlpBias: false,
  bosId: null,
  eosIds: [],
  ...shape,
});

export const NAMED_SHAPES = {
  /** The bundled base. */
  tiny: llama({
    vocabulary: 2048,
    hidden: 256,
    layers: 6,
    heads: 4,
    kvHeads: 2,
    intermediate: 704,
    tiedEmbeddings: true,
  }),
  "smollm2-135m": llama({
    vocabulary: 49152,
    hidden: 576,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    intermediate: 1536,
    tiedEmbeddings: true,
    ropeTheta: 100_000,
  }),
  "smollm2-360m": llama({
    vocabulary: 49152,
    hidden: 960,
    layers: 32,
    heads: 15,
    kvHeads: 5,
    intermediate: 2560,
    tiedEmbeddings: true,
    ropeTheta: 100_000,
  }),
  "tinyllama-1.1b": llama({ vocabulary: 32000, hidden: 2048, layers: 22, heads: 32, kvHeads: 4, intermediate: 5632 }),
  "llama-7b": llama({ vocabulary: 32000, hidden: 4096, layers: 32, heads: 32, kvHeads: 32, intermediate: 11008 }),
} as const satisfies Record<string, ModelConfig>;

export type ShapeName = keyof typeof NAMED_SHAPES;
export const SHAPE_NAMES = Object.keys(NAMED_SHAPES) as [ShapeName, ...ShapeName[]];
