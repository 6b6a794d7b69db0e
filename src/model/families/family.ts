// What a family is: how config.json becomes a ModelConfig, and what the checkpoint calls its tensors. All families read
// their config.json through the schema pieces below, so that all problems of a file are found together and a setting that
// would change numbers is taken over or refused, never ignored. Dropout of pre-training is no such setting: adapters are
// trained on the undisturbed base, with a dropout of their own.

import { z } from "zod";
import type { LayerOptions, LinearName, ModelConfig } from "../config.ts";
import type { ConfigProblems } from "../config-problems.ts";

export interface Family {
  /** Names in config.json's `architectures`. */
  readonly architectures: readonly [string, ...string[]];
  /** config.json's `model_type`, which decides if `architectures` is absent. */
  readonly modelType: string;
  readonly tensors: TensorNames;
  /** Reads config.json. Problems are noted; what is returned then is never used. */
  read(json: unknown, problems: ConfigProblems): ModelConfig;
}

/** Names of a checkpoint's modules, as transformers' class for causal language models has them. */
export interface TensorNames {
  readonly embedding: string;
  /** Embeddings of the positions, where they are learned. */
  readonly positions?: string;
  readonly head: string;
  readonly finalNorm: string;
  /** Layer N is `layers`.N. */
  readonly layers: string;
  /** Modules of the linears inside a layer: `self_attn.q_proj`. */
  readonly linears: Readonly<Record<LinearName, string>>;
  /** Weights of the linears are stored [in, out]. */
  readonly transposed?: true;
}

const count = z.int().min(1).max(1_000_000_000);
const tokenId = z.int().min(0);

/** Pieces of the schemas of config.json. */
export const field = {
  count,
  layers: count.max(10_000),
  tokenId,
  positive: z.number().positive(),
  eps: z.number().positive(),
  eosIds: z.union([tokenId, z.array(tokenId)], "expected a token id or a list of them").nullable(),
  /** A setting of which only some values are computed here. */
  oneOf: <const T extends string | number | boolean | null>(...supported: readonly T[]) =>
    z.unknown().transform((value, context) => {
      if ((supported as readonly unknown[]).includes(value)) return value as T;
      const message = `is ${JSON.stringify(value)}, supported: ${supported.map(String).join(", ")}`;
      context.addIssue({ code: "custom", message, params: UNSUPPORTED });
      return z.NEVER;
    }),
};

/** Marks an issue of a schema as a feature that is not there, rather than a broken file. */
export const UNSUPPORTED = { unsupported: true } as const;

/** Several ids or one. */
export const eosList = (ids: number | number[] | null): number[] => (ids === null ? [] : [ids].flat());

/** Which layers see a window only. */
export const WINDOW_FIELDS = {
  sliding_window: count.nullish(),
  /** How transformers 5 writes it; absent in older files. */
  layer_types: z.array(field.oneOf("full_attention", "sliding_attention")).nullish(),
};

type RawWindows = z.output<z.ZodObject<typeof WINDOW_FIELDS>>;

/** `isSliding`: the family's own rule for files without `layer_types`. */
export function layerKinds(
  raw: RawWindows,
  layers: number,
  isSliding: (layer: number) => boolean,
  problems: ConfigProblems,
): { readonly window: number | null; readonly sliding: boolean }[] {
  const { layer_types: types, sliding_window: window = null } = raw;
  if (types && types.length !== layers)
    problems.invalid("layer_types", `has ${types.length} entries, expected ${layers}, one for each layer`);
  return Array.from({ length: layers }, (_, layer) => {
    const sliding = types ? types[layer] === "sliding_attention" : isSliding(layer);
    return { sliding, window: sliding ? window : null };
  });
}

/** Layers that are all alike. */
export const alike = (layers: number, options: LayerOptions): LayerOptions[] =>
  Array.from({ length: layers }, () => options);
