// config.json → ModelConfig: chooses the family and checks what all families have in common.

import { FAMILY_NAMES, type FamilyName, type ModelConfig } from "./config.ts";
import { ConfigProblems } from "./config-problems.ts";
import type { Family } from "./families/family.ts";
import { FAMILIES } from "./families/index.ts";

/**
 * Reads config.json's content; `name` is its file, for messages. All problems are reported together. Absent settings have
 * the values that transformers gives them.
 * Throws MODEL_CONFIG_INVALID (malformed or inconsistent), MODEL_UNSUPPORTED (a model or feature that is not there; it wins
 * if both occur).
 */
export function parseModelConfig(json: unknown, name = "config.json"): ModelConfig {
  const problems = new ConfigProblems(name, `Use a model of one of these families: ${FAMILY_NAMES.join(", ")}.`);
  const family = familyOf(json, problems);
  const config = FAMILIES[family].read(json, problems);
  checkConsistency(config, problems);
  if (problems.any) throw problems.error();
  return config;
}

const families = Object.entries(FAMILIES) as [FamilyName, Family][];
const ARCHITECTURES = families.flatMap(([, { architectures }]) => architectures);
const MODEL_TYPES = families.map(([, { modelType }]) => modelType);

/** By `architectures`, else by `model_type`; a file that names neither is read as a Llama. */
function familyOf(json: unknown, problems: ConfigProblems): FamilyName {
  const raw = (typeof json === "object" ? json : null) as Record<string, unknown> | null;
  const architecture = Array.isArray(raw?.architectures) ? raw.architectures[0] : undefined;
  if (typeof architecture === "string") {
    const found = families.find(([, family]) => family.architectures.includes(architecture));
    if (found) return found[0];
    problems.unsupported("architectures", architecture, ARCHITECTURES.join(", "));
    throw problems.error();
  }
  if (raw?.model_type === undefined) return "llama";
  const found = families.find(([, family]) => family.modelType === raw.model_type);
  if (found) return found[0];
  problems.unsupported("model_type", raw.model_type, MODEL_TYPES.join(", "));
  throw problems.error();
}

function checkConsistency(config: ModelConfig, problems: ConfigProblems): void {
  const { heads, kvHeads, headDim, vocabulary } = config;
  if (!Number.isInteger(headDim))
    problems.invalid("hidden_size", `is ${config.hidden}, expected a multiple of the ${heads} heads, or head_dim`);
  else if (headDim % 2 !== 0 && config.ropes.some(({ dims }) => dims === headDim))
    problems.invalid("head_dim", `is ${headDim}, expected an even number (rotary pairs)`);
  for (const { dims } of config.ropes)
    if (Number.isInteger(headDim) && dims !== headDim && (dims % 2 !== 0 || dims < 2))
      problems.invalid("rotated columns of a head", `are ${dims}, expected an even number (rotary pairs)`);
  if (heads % kvHeads !== 0)
    problems.invalid("num_key_value_heads", `is ${kvHeads}, expected a divisor of num_attention_heads (${heads})`);
  for (const id of [config.bosId ?? 0, ...config.eosIds])
    if (id >= vocabulary) problems.invalid("bos_token_id/eos_token_id", `has ${id}, expected less than ${vocabulary}`);
}
