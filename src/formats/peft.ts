// LoRA adapters in the layout of Hugging Face PEFT: adapter_config.json and adapter_model.safetensors. PEFT stores A as
// [r, in] and B as [out, r]; this repository keeps B transposed, [r, out], so that a rank is a prefix of rows of both.
// Only the long-standing fields of the config are written, since old versions of PEFT stop at fields they do not know.

import { z } from "zod";
import { QdlError } from "../errors.ts";
import { type FloatDType, firstNonFinite, isFloat, toF32 } from "./float-convert.ts";
import type { Folder } from "./folder.ts";
import { type DTypeRule, dtypeFor, encodeFloats, STORED } from "./output-dtype.ts";
import { encodeSafetensors, openSafetensors, type StoredTensor, type TensorToWrite } from "./safetensors.ts";
import { DTYPE_BITS } from "./safetensors-header.ts";

export const PEFT_CONFIG = "adapter_config.json";
export const PEFT_WEIGHTS = "adapter_model.safetensors";

/** How an adapter of one rank is scaled in PEFT: alpha/r, or alpha/√r with rslora. */
export interface PeftScale {
  readonly rank: number;
  readonly loraAlpha: number;
  readonly useRslora: boolean;
}

/**
 * The settings with which PEFT and what reads its folders compute s(b) of our rule at rank b. alpha/√b is written as a plain
 * alpha, α·√b / b, since not every reader knows rslora.
 */
export function peftScale(
  rule: "alpha/b" | "alpha/R" | "alpha/sqrt(b)" | "one",
  { alpha, rankMax, rank }: { readonly alpha: number; readonly rankMax: number; readonly rank: number },
): PeftScale {
  switch (rule) {
    case "alpha/b":
      return { rank, loraAlpha: alpha, useRslora: false };
    case "alpha/R":
      return { rank, loraAlpha: (alpha * rank) / rankMax, useRslora: false };
    case "alpha/sqrt(b)":
      return { rank, loraAlpha: alpha * Math.sqrt(rank), useRslora: false };
    case "one":
      return { rank, loraAlpha: rank, useRslora: false };
  }
}

/** One adapted linear. The values are asked for when they are written or used, so that one module is in memory at a time. */
export interface PeftModule {
  /** Module path in the model: "model.layers.0.self_attn.q_proj". */
  readonly path: string;
  /** End of the path by which target_modules names it; default: its last part. */
  readonly target?: string;
  /** K, in-features; M, out-features. */
  readonly in: number;
  readonly out: number;
  /** A, f32 [r, K]. */
  readonly a: () => Promise<Float32Array>;
  /** Bᵀ, f32 [r, M]. */
  readonly bTransposed: () => Promise<Float32Array>;
}

export interface PeftAdapter extends PeftScale {
  /** Hub id or name of the base, never a path of this machine; null if unknown. */
  readonly baseModel: string | null;
  readonly revision: string | null;
  /** The base keeps its weights [in, out]. Default: false. */
  readonly fanInFanOut?: boolean;
  readonly modules: readonly PeftModule[];
}

/** Writes the two files, weights first, in f32 unless `dtypes` says otherwise. Throws WRITE_FAILED, TENSOR_NONFINITE (f16). */
export async function writePeft(
  folder: Folder,
  adapter: PeftAdapter,
  dtypes: readonly DTypeRule[] = [],
): Promise<void> {
  const tensors = adapter.modules.flatMap((module) => modulePair(module, adapter.rank, dtypes));
  // Wide dtypes first, so that every tensor is aligned.
  tensors.sort((x, y) => DTYPE_BITS[y.dtype] - DTYPE_BITS[x.dtype] || (x.name < y.name ? -1 : 1));
  await folder.write(PEFT_WEIGHTS, encodeSafetensors(tensors, { format: "pt" }));
  await folder.write(PEFT_CONFIG, new TextEncoder().encode(`${JSON.stringify(peftConfig(adapter), null, 2)}\n`));
}

function peftConfig({
  rank,
  loraAlpha,
  useRslora,
  baseModel,
  revision,
  fanInFanOut = false,
  modules,
}: PeftAdapter): Record<string, unknown> {
  const targets = new Set(modules.map(({ path, target }) => target ?? path.split(".").at(-1)!));
  return {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: baseModel,
    revision,
    inference_mode: true,
    r: rank,
    lora_alpha: loraAlpha,
    use_rslora: useRslora,
    lora_dropout: 0,
    target_modules: [...targets].sort(),
    bias: "none",
    fan_in_fan_out: fanInFanOut,
    init_lora_weights: true,
    modules_to_save: null,
    layers_to_transform: null,
    layers_pattern: null,
    rank_pattern: {},
    alpha_pattern: {},
  };
}

const PREFIX = "base_model.model.";

function modulePair(module: PeftModule, rank: number, dtypes: readonly DTypeRule[]): TensorToWrite[] {
  const { path, in: inFeatures, out } = module;
  const tensor = (part: string, shape: number[], values: () => Promise<Float32Array>): TensorToWrite => {
    const name = `${PREFIX}${path}.${part}.weight`;
    const dtype = dtypeFor(dtypes, name, "f32");
    const content = async function* () {
      yield encodeFloats(name, await values(), dtype);
    };
    return { name, dtype: STORED[dtype], shape, content };
  };
  return [
    tensor("lora_A", [rank, inFeatures], module.a),
    tensor("lora_B", [out, rank], async () => transpose(await module.bTransposed(), rank, out)),
  ];
}

/** [rows, cols] → [cols, rows]. */
function transpose(values: Float32Array, rows: number, cols: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) out[c * rows + r] = values[r * cols + c]!;
  return out;
}

/** A module that was read, with the rank and scale that it has by itself. */
export interface StoredPeftModule extends PeftModule {
  readonly rank: number;
  /** alpha/r or alpha/√r, by the module's own alpha and r. */
  readonly scale: number;
}

/** An adapter that was read; `close` releases its file. */
export interface OpenPeftAdapter extends PeftAdapter {
  readonly modules: readonly StoredPeftModule[];
  close(): Promise<void>;
}

/**
 * Opens a PEFT folder: plain LoRA on linears, with rank and alpha for all modules or by pattern. Names and shapes are checked
 * now, NaN when values are read. Throws FILE_NOT_FOUND, ADAPTER_INVALID, SAFETENSORS_INVALID; the modules' functions throw
 * TENSOR_NONFINITE.
 */
export async function openPeft(folder: Folder): Promise<OpenPeftAdapter> {
  const config = await readConfig(folder);
  const file = await openSafetensors(await folder.open(PEFT_WEIGHTS));
  try {
    const modules = readModules(folder, config, file.names.map(file.tensor));
    return {
      rank: config.r,
      loraAlpha: config.lora_alpha,
      useRslora: config.use_rslora,
      baseModel: config.base_model_name_or_path ?? null,
      revision: config.revision ?? null,
      modules,
      close: file.close,
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Ways to start that leave the base as it is. PiSSA, OLoRA, CorDA and LoftQ change it, so that B·A alone means nothing. */
const HARMLESS_INITS = [true, false, "gaussian", "eva", "orthogonal"] as const;

const rank = z.int().min(1);

/** A variant of LoRA that is not computed here must not be asked for. */
const off = z.union([z.null(), z.literal(false)], "expected null: this variant of LoRA is not supported").optional();

/** The fields that change what is computed must have the values that this reader computes. */
const CONFIG = z.object({
  peft_type: z.literal("LORA"),
  r: rank,
  lora_alpha: z.number(),
  use_rslora: z.boolean().default(false),
  use_dora: z.literal(false).default(false),
  bias: z.literal("none").default("none"),
  lora_bias: z.literal(false).default(false),
  // Where the base keeps weights transposed: A and B are stored alike.
  fan_in_fan_out: z.boolean().default(false),
  init_lora_weights: z.literal(HARMLESS_INITS).default(true),
  rank_pattern: z.record(z.string(), rank).nullish(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
  layer_replication: off,
  alora_invocation_tokens: off,
  modules_to_save: off,
  trainable_token_indices: off,
  target_parameters: off,
  use_qalora: off,
  use_bdlora: off,
  kasa_config: off,
  monteclora_config: off,
  velora_config: off,
  base_model_name_or_path: z.string().nullish(),
  revision: z.string().nullish(),
});
type Config = z.infer<typeof CONFIG>;

async function readConfig(folder: Folder): Promise<Config> {
  let json: unknown;
  const bytes = await folder.read(PEFT_CONFIG);
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw invalid(folder, PEFT_CONFIG, `not valid JSON: ${cause instanceof Error ? cause.message : cause}`);
  }
  const parsed = CONFIG.safeParse(json);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".") || "the file"}: ${message}`);
  throw invalid(folder, PEFT_CONFIG, problems.join("; "));
}

/** As `save_pretrained` names them, or with the adapter's name between, as a model's own state has them. */
const NAME = /^(?:base_model\.model\.)?(.+?)\.lora_([AB])(?:\.([^.]+))?\.weight$/;

interface Pair {
  A?: StoredTensor;
  B?: StoredTensor;
}

function readModules(folder: Folder, config: Config, tensors: readonly StoredTensor[]): StoredPeftModule[] {
  const pairs = new Map<string, Pair>();
  for (const tensor of tensors) {
    const match = NAME.exec(tensor.name);
    if (!match) throw invalid(folder, tensor.name, "is not the LoRA weight of a linear (….lora_A.weight or lora_B)");
    if (!isFloat(tensor.dtype))
      throw invalid(folder, tensor.name, `dtype is ${tensor.dtype}, expected F32, F16 or BF16`);
    const side = match[2] as "A" | "B";
    const pair = pairs.get(match[1]!) ?? {};
    if (pair[side])
      throw invalid(folder, tensor.name, `is there twice, as ${pair[side].name} too: expected one adapter`);
    pair[side] = tensor;
    pairs.set(match[1]!, pair);
  }
  if (pairs.size === 0) throw invalid(folder, PEFT_WEIGHTS, "holds no LoRA weight");
  const ranks = patternLookup(folder, "rank_pattern", config.rank_pattern ?? {}, config.r);
  const alphas = patternLookup(folder, "alpha_pattern", config.alpha_pattern ?? {}, config.lora_alpha);
  return [...pairs.keys()].sort().map((path) => {
    const own = ranks(path);
    const scale = alphas(path) / (config.use_rslora ? Math.sqrt(own) : own);
    return { ...readModule(folder, own, path, pairs.get(path)!), rank: own, scale };
  });
}

/** A module's own number: that of the first pattern that fits its whole path or an end of it, as PEFT looks it up. */
function patternLookup(
  folder: Folder,
  field: string,
  patterns: Readonly<Record<string, number>>,
  otherwise: number,
): (path: string) => number {
  const rules = Object.entries(patterns).map(([pattern, value]) => {
    try {
      return { regex: new RegExp(`^(?:.*\\.)?(?:${pattern})$`), value };
    } catch (cause) {
      throw invalid(
        folder,
        PEFT_CONFIG,
        `${field}: "${pattern}" is no regular expression: ${(cause as Error).message}`,
      );
    }
  });
  return (path) => rules.find(({ regex }) => regex.test(path))?.value ?? otherwise;
}

function readModule(folder: Folder, rank: number, path: string, { A, B }: Pair): PeftModule {
  if (!A || !B) throw invalid(folder, path, `has no lora_${A ? "B" : "A"}, expected both`);
  if (A.shape.length !== 2 || A.shape[0] !== rank)
    throw invalid(folder, A.name, `is [${A.shape.join(", ")}], expected [${rank}, in] because its rank is ${rank}`);
  if (B.shape.length !== 2 || B.shape[1] !== rank)
    throw invalid(folder, B.name, `is [${B.shape.join(", ")}], expected [out, ${rank}] because its rank is ${rank}`);
  const out = B.shape[0]!;
  return {
    path,
    in: A.shape[1]!,
    out,
    a: () => finiteValues(A),
    bTransposed: async () => transpose(await finiteValues(B), out, rank),
  };
}

async function finiteValues(tensor: StoredTensor): Promise<Float32Array> {
  const bytes = await tensor.read();
  const index = firstNonFinite(tensor.dtype as FloatDType, bytes);
  if (index < 0) return toF32(tensor.dtype as FloatDType, bytes);
  throw new QdlError("TENSOR_NONFINITE", `${tensor.file}: ${tensor.name} is not finite at element ${index}`, {
    hint: "The adapter is damaged or its training diverged; use an earlier checkpoint.",
    details: { path: tensor.file, tensor: tensor.name, index },
  });
}

function invalid(folder: Folder, what: string, reason: string): QdlError {
  return new QdlError("ADAPTER_INVALID", `${folder.path}: ${what}: ${reason}`, {
    hint: "Expected a plain LoRA adapter of linears, as PEFT saves it.",
    details: { path: folder.path, what },
  });
}
