// What a family is: how config.json becomes a ModelConfig, and what the checkpoint calls its tensors. All families read
// their config.json through the schema pieces below, so that all problems of a file are found together and a setting that
// would change numbers is taken over or refused, never ignored.

import { z } from "zod";
import type { LinearName, ModelConfig } from "../config.ts";
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
  /** Prefix of the inner model; checkpoints of the bare or of a wrapped model have another. */
  readonly inner: string;
  readonly embedding: string;
  readonly head: string;
  readonly finalNorm: string;
  /** Layer N is `layers`.N. */
  readonly layers: string;
  /** Modules of the linears inside a layer: `self_attn.q_proj`. */
  readonly linears: Readonly<Record<LinearName, string>>;
}

const count = z.int().min(1).max(1_000_000_000);
const tokenId = z.int().min(0);

/** Pieces of the schemas of config.json. */
export const field = {
  count,
  layers: count.max(10_000),
  tokenId,
  positive: z.number().positive(),
  eps: z.number().min(0),
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
