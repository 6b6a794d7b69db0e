// Rotary settings of config.json, in both of their spellings: `rope_theta` beside `rope_scaling`, and transformers 5's
// `rope_parameters`, which holds both.

import { z } from "zod";
import type { RopeOptions, RopeScaling } from "../config.ts";
import type { ConfigProblems } from "../config-problems.ts";
import { field } from "./family.ts";

const TYPES = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"] as const;
/** "su" is what longrope was called first. */
const type = field.oneOf(...TYPES, "su").optional();
const factors = z.array(field.positive).min(1);
const share = z.number().positive().max(1);

export const ROPE = z.object({
  rope_type: type,
  /** The older spelling of rope_type. */
  type,
  rope_theta: field.positive.optional(),
  factor: field.positive.nullish(),
  low_freq_factor: field.positive.optional(),
  high_freq_factor: field.positive.optional(),
  original_max_position_embeddings: field.count.optional(),
  attention_factor: field.positive.nullish(),
  mscale: field.positive.nullish(),
  mscale_all_dim: z.number().min(0).nullish(),
  beta_fast: field.positive.nullish(),
  beta_slow: field.positive.nullish(),
  truncate: z.boolean().optional(),
  short_factor: factors.optional(),
  long_factor: factors.optional(),
  partial_rotary_factor: share.nullish(),
});

/** The fields of a family with rotary embeddings. */
export const ROPE_FIELDS = {
  max_position_embeddings: field.count.default(2048),
  original_max_position_embeddings: field.count.optional(),
  rope_theta: field.positive.nullish(),
  rope_scaling: ROPE.nullish(),
  rope_parameters: ROPE.nullish(),
  partial_rotary_factor: share.nullish(),
};

type RopeJson = z.output<typeof ROPE>;
type RawRope = z.output<z.ZodObject<typeof ROPE_FIELDS>>;

export interface RopeDefaults {
  readonly theta?: number;
  /** Share of a head that is rotated. */
  readonly share?: number;
}

export function readRope(
  raw: RawRope,
  headDim: number,
  problems: ConfigProblems,
  defaults: RopeDefaults = {},
): RopeOptions {
  const key = raw.rope_parameters ? "rope_parameters" : "rope_scaling";
  const rope = raw.rope_parameters ?? raw.rope_scaling ?? {};
  const theta = rope.rope_theta ?? raw.rope_theta ?? defaults.theta ?? 10_000;
  const part = rope.partial_rotary_factor ?? raw.partial_rotary_factor ?? defaults.share ?? 1;
  return ropeOptions({ key, rope, raw, theta, dims: Math.floor(headDim * part), problems });
}

interface Reading {
  /** The object's name in the file. */
  readonly key: string;
  readonly rope: RopeJson;
  readonly raw: Pick<RawRope, "max_position_embeddings" | "original_max_position_embeddings">;
  readonly theta: number;
  readonly dims: number;
  readonly problems: ConfigProblems;
}

export function ropeOptions(reading: Reading): RopeOptions {
  const { rope, theta, dims } = reading;
  const type = rope.rope_type ?? rope.type ?? "default";
  return { theta, dims, scaling: SCALINGS[type === "su" ? "longrope" : type](reading) };
}

const SCALINGS: Readonly<Record<(typeof TYPES)[number], (reading: Reading) => RopeScaling>> = {
  default: () => ({ kind: "none" }),
  linear: (reading) => ({ kind: "linear", factor: need(reading, "factor") }),
  dynamic: (reading) => ({
    kind: "dynamic",
    factor: need(reading, "factor"),
    maxPositions: reading.raw.max_position_embeddings,
  }),
  llama3,
  yarn,
  longrope,
};

function need({ key, rope, problems }: Reading, name: "factor" | "low_freq_factor" | "high_freq_factor"): number {
  const value = rope[name];
  if (typeof value === "number") return value;
  problems.invalid(`${key}.${name}`, "is absent, expected a number because the rope type needs it");
  return 1;
}

const trainedPositions = ({ rope, raw }: Reading): number =>
  raw.original_max_position_embeddings ?? rope.original_max_position_embeddings ?? raw.max_position_embeddings;

function llama3(reading: Reading): RopeScaling {
  const { key, problems } = reading;
  const lowFrequencyFactor = need(reading, "low_freq_factor");
  const highFrequencyFactor = need(reading, "high_freq_factor");
  if (highFrequencyFactor <= lowFrequencyFactor && !problems.any)
    problems.invalid(`${key}.high_freq_factor`, `is ${highFrequencyFactor}, expected more than low_freq_factor`);
  const factor = need(reading, "factor");
  const originalMaxPositions = trainedPositions(reading);
  return { kind: "llama3", factor, lowFrequencyFactor, highFrequencyFactor, originalMaxPositions };
}

/** arXiv 2309.00071; the magnitude is its 1/t of equation 22, or what `mscale` and `mscale_all_dim` make of it. */
function yarn(reading: Reading): RopeScaling {
  const { rope, raw } = reading;
  const originalMaxPositions = trainedPositions(reading);
  const factor = rope.factor ?? raw.max_position_embeddings / originalMaxPositions;
  const grown = (scale: number): number => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
  const { mscale, mscale_all_dim: all } = rope;
  const magnitude = rope.attention_factor ?? (mscale && all ? grown(mscale) / grown(all) : grown(1));
  const { beta_fast, beta_slow, truncate = true } = rope;
  const betas = { betaFast: beta_fast ?? 32, betaSlow: beta_slow ?? 1 };
  return { kind: "yarn", factor, magnitude, ...betas, originalMaxPositions, truncate };
}

/** arXiv 2402.13753. */
function longrope(reading: Reading): RopeScaling {
  const { key, rope, raw, dims, problems } = reading;
  const originalMaxPositions = trainedPositions(reading);
  const factor = rope.factor ?? raw.max_position_embeddings / originalMaxPositions;
  const grown = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositions));
  for (const name of ["short_factor", "long_factor"] as const)
    if (rope[name]?.length !== dims / 2)
      problems.invalid(
        `${key}.${name}`,
        `has ${rope[name]?.length ?? "no"} entries, expected ${dims / 2}, one for each pair`,
      );
  const { short_factor: short = [], long_factor: long = [] } = rope;
  return { kind: "longrope", short, long, magnitude: rope.attention_factor ?? grown, originalMaxPositions };
}
