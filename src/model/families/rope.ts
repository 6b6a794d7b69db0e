// Rotary settings of config.json, in both of their spellings: `rope_theta` beside `rope_scaling`, and transformers 5's
// `rope_parameters`, which holds both.

import { z } from "zod";
import type { RopeOptions, RopeScaling } from "../config.ts";
import type { ConfigProblems } from "../config-problems.ts";
import { field } from "./family.ts";

const TYPES = ["default", "linear", "llama3"] as const;

const ROPE = z.object({
  rope_type: field.oneOf(...TYPES).optional(),
  /** The older spelling of rope_type. */
  type: field.oneOf(...TYPES).optional(),
  rope_theta: field.positive.optional(),
  factor: field.positive.optional(),
  low_freq_factor: field.positive.optional(),
  high_freq_factor: field.positive.optional(),
  original_max_position_embeddings: field.count.optional(),
  partial_rotary_factor: field.oneOf(1, null).optional(),
});

/** The fields of a family with rotary embeddings. */
export const ROPE_FIELDS = {
  max_position_embeddings: field.count.default(2048),
  rope_theta: field.positive.nullish(),
  rope_scaling: ROPE.nullish(),
  rope_parameters: ROPE.nullish(),
  partial_rotary_factor: field.oneOf(1, null).optional(),
};

type RawRope = z.infer<z.ZodObject<typeof ROPE_FIELDS>>;

/** `defaultTheta`: the family's base of the wavelengths. */
export function readRope(raw: RawRope, problems: ConfigProblems, defaultTheta = 10_000): RopeOptions {
  const key = raw.rope_parameters ? "rope_parameters" : "rope_scaling";
  const rope = raw.rope_parameters ?? raw.rope_scaling ?? {};
  const theta = rope.rope_theta ?? raw.rope_theta ?? defaultTheta;
  const need = (name: keyof z.infer<typeof ROPE>): number => {
    const value = rope[name];
    if (typeof value === "number") return value;
    problems.invalid(`${key}.${name}`, "is absent, expected a number because the rope type needs it");
    return 1;
  };
  const llama3 = (): RopeScaling => {
    const lowFrequencyFactor = need("low_freq_factor");
    const highFrequencyFactor = need("high_freq_factor");
    if (highFrequencyFactor <= lowFrequencyFactor && !problems.any)
      problems.invalid(`${key}.high_freq_factor`, `is ${highFrequencyFactor}, expected more than low_freq_factor`);
    const originalMaxPositions = rope.original_max_position_embeddings ?? raw.max_position_embeddings;
    return { kind: "llama3", factor: need("factor"), lowFrequencyFactor, highFrequencyFactor, originalMaxPositions };
  };
  const scalings: Record<(typeof TYPES)[number], () => RopeScaling> = {
    default: () => ({ kind: "none" }),
    linear: () => ({ kind: "linear", factor: need("factor") }),
    llama3,
  };
  return { theta, scaling: scalings[rope.rope_type ?? rope.type ?? "default"]() };
}
