// The configuration of a model as the rest of the code sees it, whatever file it came from, and the reader of config.json.
// Export writes the file's own JSON back (`Checkpoint.configJson`), so nothing that is not understood here gets lost.

import { z } from "zod";
import { type ErrorCode, QdlError } from "../errors.ts";

export type RopeScaling =
  | { readonly kind: "none" }
  | { readonly kind: "linear"; readonly factor: number }
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalMaxPositions: number;
    };

export interface ModelConfig {
  /** The block family (model/families). */
  readonly family: "llama";
  /** Name in config.json's `architectures`, kept for export. */
  readonly architecture: string;
  readonly vocabulary: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly maxPositions: number;
  readonly normEps: number;
  /** The head is the embedding: held once, written once. */
  readonly tiedEmbeddings: boolean;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly bosId: number | null;
  readonly eosIds: readonly number[];
}

/** Architectures of config.json whose blocks are the family's. */
const SUPPORTED_ARCHITECTURES: readonly string[] = ["LlamaForCausalLM"];
const SUPPORTED_ROPE = ["default", "linear", "llama3"] as const;
const SUPPORTED_ACTIVATIONS: readonly string[] = ["silu", "swish"];

/**
 * Reads config.json's content; `name` is its file, for messages. All problems are reported together. Absent settings have
 * the values that transformers gives them for Llama.
 * Throws MODEL_CONFIG_INVALID (malformed or inconsistent), MODEL_UNSUPPORTED (a feature that is not there; it wins if
 * both occur).
 */
export function parseModelConfig(json: unknown, name = "config.json"): ModelConfig {
  const problems = new Problems(name);
  problems.checkSupport(json);
  const parsed = SCHEMA.safeParse(json);
  if (!parsed.success) {
    for (const { path, message } of parsed.error.issues) problems.invalid(path.join(".") || "the file", message);
    throw problems.error();
  }
  const raw = parsed.data;
  const config: ModelConfig = {
    family: "llama",
    architecture: raw.architectures?.[0] ?? SUPPORTED_ARCHITECTURES[0]!,
    vocabulary: raw.vocab_size,
    hidden: raw.hidden_size,
    layers: raw.num_hidden_layers,
    heads: raw.num_attention_heads,
    kvHeads: raw.num_key_value_heads ?? raw.num_attention_heads,
    headDim: raw.head_dim ?? raw.hidden_size / raw.num_attention_heads,
    intermediate: raw.intermediate_size,
    maxPositions: raw.max_position_embeddings,
    normEps: raw.rms_norm_eps,
    tiedEmbeddings: raw.tie_word_embeddings,
    ...readRope(raw, problems),
    attentionBias: raw.attention_bias,
    mlpBias: raw.mlp_bias,
    bosId: raw.bos_token_id,
    eosIds: raw.eos_token_id === null ? [] : [raw.eos_token_id].flat(),
  };
  checkConsistency(config, problems);
  if (problems.any) throw problems.error();
  return config;
}

const count = z.int().min(1).max(1_000_000_000);
const tokenId = z.int().min(0);
const positive = z.number().positive();

const ROPE = z.object({
  rope_type: z.string().optional(),
  /** The older spelling of rope_type. */
  type: z.string().optional(),
  rope_theta: positive.optional(),
  factor: positive.optional(),
  low_freq_factor: positive.optional(),
  high_freq_factor: positive.optional(),
  original_max_position_embeddings: count.optional(),
});

const SCHEMA = z.object({
  architectures: z.array(z.string()).nullish(),
  vocab_size: count,
  hidden_size: count,
  num_hidden_layers: count.max(10_000),
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  intermediate_size: count,
  max_position_embeddings: count.default(2048),
  rms_norm_eps: z.number().min(0).default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  rope_theta: positive.nullish(),
  rope_scaling: ROPE.nullish(),
  /** How transformers 5 writes rope_theta and rope_scaling. */
  rope_parameters: ROPE.nullish(),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  bos_token_id: tokenId.nullable().default(1),
  eos_token_id: z
    .union([tokenId, z.array(tokenId)], "expected a token id or a list of them")
    .nullable()
    .default(2),
});
type RawConfig = z.infer<typeof SCHEMA>;

function readRope(raw: RawConfig, problems: Problems): Pick<ModelConfig, "ropeTheta" | "ropeScaling"> {
  const key = raw.rope_parameters ? "rope_parameters" : "rope_scaling";
  const rope = raw.rope_parameters ?? raw.rope_scaling ?? {};
  const ropeTheta = rope.rope_theta ?? raw.rope_theta ?? 10_000;
  const need = (field: keyof z.infer<typeof ROPE>): number => {
    const value = rope[field];
    if (typeof value === "number") return value;
    problems.invalid(`${key}.${field}`, "is absent, expected a number because the rope type needs it");
    return 1;
  };
  switch (rope.rope_type ?? rope.type ?? "default") {
    case "linear":
      return { ropeTheta, ropeScaling: { kind: "linear", factor: need("factor") } };
    case "llama3": {
      const lowFrequencyFactor = need("low_freq_factor");
      const highFrequencyFactor = need("high_freq_factor");
      if (highFrequencyFactor <= lowFrequencyFactor && !problems.any)
        problems.invalid(`${key}.high_freq_factor`, `is ${highFrequencyFactor}, expected more than low_freq_factor`);
      const originalMaxPositions = rope.original_max_position_embeddings ?? raw.max_position_embeddings;
      const factor = need("factor");
      return {
        ropeTheta,
        ropeScaling: { kind: "llama3", factor, lowFrequencyFactor, highFrequencyFactor, originalMaxPositions },
      };
    }
    default:
      // Other types are refused by `checkSupport`.
      return { ropeTheta, ropeScaling: { kind: "none" } };
  }
}

function checkConsistency(config: ModelConfig, problems: Problems): void {
  const { heads, kvHeads, headDim, vocabulary } = config;
  if (!Number.isInteger(headDim))
    problems.invalid("hidden_size", `is ${config.hidden}, expected a multiple of the ${heads} heads, or head_dim`);
  else if (headDim % 2 !== 0) problems.invalid("head_dim", `is ${headDim}, expected an even number (rotary pairs)`);
  if (heads % kvHeads !== 0)
    problems.invalid("num_key_value_heads", `is ${kvHeads}, expected a divisor of num_attention_heads (${heads})`);
  for (const id of [config.bosId ?? 0, ...config.eosIds])
    if (id >= vocabulary) problems.invalid("bos_token_id/eos_token_id", `has ${id}, expected less than ${vocabulary}`);
}

interface Problem {
  readonly code: Extract<ErrorCode, "MODEL_CONFIG_INVALID" | "MODEL_UNSUPPORTED">;
  readonly key: string;
  readonly text: string;
}

class Problems {
  readonly #name: string;
  readonly #found: Problem[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  get any(): boolean {
    return this.#found.length > 0;
  }

  invalid(key: string, text: string): void {
    this.#found.push({ code: "MODEL_CONFIG_INVALID", key, text });
  }

  #unsupported(key: string, value: unknown, supported: string): void {
    this.#found.push({ code: "MODEL_UNSUPPORTED", key, text: `is ${JSON.stringify(value)}, supported: ${supported}` });
  }

  /** Looks at the raw JSON, so that a model of another kind is named as such and not as a broken Llama. */
  checkSupport(json: unknown): void {
    if (typeof json !== "object" || json === null) return;
    const raw = json as Record<string, unknown>;
    const architecture = Array.isArray(raw.architectures) ? raw.architectures[0] : undefined;
    if (typeof architecture === "string") {
      if (!SUPPORTED_ARCHITECTURES.includes(architecture))
        this.#unsupported("architectures", architecture, SUPPORTED_ARCHITECTURES.join(", "));
    } else if (raw.model_type !== undefined && raw.model_type !== "llama")
      this.#unsupported("model_type", raw.model_type, "llama");
    if (raw.hidden_act !== undefined && !SUPPORTED_ACTIVATIONS.includes(String(raw.hidden_act)))
      this.#unsupported("hidden_act", raw.hidden_act, SUPPORTED_ACTIVATIONS.join(", "));
    if (typeof raw.sliding_window === "number" && raw.use_sliding_window !== false)
      this.#unsupported("sliding_window", raw.sliding_window, "null (full attention)");
    for (const key of ["rope_parameters", "rope_scaling"]) this.#checkRope(key, raw[key]);
    this.#checkRotary("partial_rotary_factor", raw.partial_rotary_factor);
  }

  #checkRope(key: string, value: unknown): void {
    if (typeof value !== "object" || value === null) return;
    const rope = value as Record<string, unknown>;
    const type = rope.rope_type ?? rope.type ?? "default";
    if (!SUPPORTED_ROPE.some((supported) => supported === type))
      this.#unsupported(`${key}.rope_type`, type, SUPPORTED_ROPE.join(", "));
    this.#checkRotary(`${key}.partial_rotary_factor`, rope.partial_rotary_factor);
  }

  #checkRotary(key: string, factor: unknown): void {
    if (factor !== undefined && factor !== null && factor !== 1) this.#unsupported(key, factor, "1 (the whole head)");
  }

  error(): QdlError {
    const unsupported = this.#found.some((problem) => problem.code === "MODEL_UNSUPPORTED");
    const code = unsupported ? "MODEL_UNSUPPORTED" : "MODEL_CONFIG_INVALID";
    const lines = this.#found.map(({ key, text }) => `${key}: ${text}`);
    const list = lines.length === 1 ? lines[0] : `${lines.length} problems:\n  ${lines.join("\n  ")}`;
    const hint = unsupported
      ? "Use a model of the Llama family, such as Llama 2 or 3, TinyLlama or SmolLM2."
      : "The file is damaged or was written by hand; fetch it again.";
    return new QdlError(code, `${this.#name}: ${list}`, { hint, details: { path: this.#name, problems: this.#found } });
  }
}
