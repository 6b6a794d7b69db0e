// THE option table. Flags, YAML keys, defaults, --help and docs/cli.md all come from here. A key in camelCase is the
// library's option of the same name; its flag and its YAML key are the same words with dashes.

import { OPTIMIZER_CHOICES } from "../adapter/moments.ts";
import { KNOWN_LINEARS } from "../model/families/index.ts";
import { OFFLOAD_CHOICES } from "../model/memory-plan.ts";
import { SHAPE_NAMES } from "../model/named-shapes.ts";
import { TRAIN_DEFAULTS } from "../verbs/train-options.ts";
import {
  bytes,
  choice,
  columns,
  distribution,
  dtypes,
  flag,
  integer,
  integers,
  number,
  type OptionType,
  pathOrShare,
  strings,
  text,
  texts,
} from "./option-types.ts";

export interface OptionSpec<T> {
  readonly type: OptionType<T>;
  readonly help: string;
  readonly default?: T | undefined;
  /** What the default is in words, when it is worked out at run time. */
  readonly defaultText?: string;
  /** A one-letter flag. */
  readonly short?: string;
}

const option = <T>(
  type: OptionType<T>,
  help: string,
  more: Omit<OptionSpec<NoInfer<T>>, "type" | "help"> = {},
): OptionSpec<T> => ({ type, help, ...more });

const D = TRAIN_DEFAULTS;

export const OPTIONS = {
  // What goes in and out
  model: option(
    text("folder|file|hub id", "a model folder, a .gguf file or a hub id"),
    "base model: a Hugging Face folder, a GGUF file, or a hub id (owner/name or owner/name@revision)",
    { short: "m" },
  ),
  data: option(
    texts("file,…", "files or folders of JSONL"),
    "JSONL with text, prompt and completion, or chat messages; several files or folders separated by commas",
    { short: "d" },
  ),
  output: option(text("folder", "a folder"), "folder to write", { short: "o" }),
  heldOut: option(pathOrShare(), "file of held-out samples, or the share of --data to hold out", {
    default: D.heldOut,
  }),
  overlong: option(choice(["error", "truncate", "drop", "split"]), "what to do with samples longer than --seq", {
    default: D.overlong,
  }),
  lossOn: option(choice(["completion", "all"]), "tokens that are learned: answers only, or all", { default: D.lossOn }),
  skipBadRows: option(flag(), "skip and count broken rows instead of stopping at the first", {
    default: D.skipBadRows,
  }),
  columns: option(
    columns(),
    "keys of the rows, where they have other names: prompt=question,completion=answer, or as chat: user=question,assistant=answer",
  ),

  // Adapter
  rankMax: option(integer("R"), "largest rank of the adapter", { default: D.rankMax }),
  ranks: option(integers("1,2,…"), "ranks to evaluate, to draw in training, to export", {
    defaultText: "1, 2, 4, … R",
  }),
  alpha: option(number(), "LoRA alpha", { default: D.alpha }),
  scale: option(choice(["alpha/b", "alpha/R", "alpha/sqrt(b)", "one"]), "scale of rank b; alpha/b is the paper's", {
    default: D.scale,
  }),
  mode: option(
    choice(["dylora", "frozen", "fixed"]),
    "rows that learn at rank b: all below b (dylora), only the last (frozen), or always rank R (fixed: plain LoRA)",
    { default: D.mode },
  ),
  distribution: option(distribution(), "how the rank of a step is drawn", { default: D.distribution }),
  targets: option(
    texts("name,…", `names out of ${KNOWN_LINEARS.join(", ")}, or "all"`),
    `linears that get an adapter: all, or names of the model's own out of ${KNOWN_LINEARS.join(", ")}`,
    { default: ["all"] },
  ),

  // Optimisation
  steps: option(integer(), "optimizer steps; excludes --epochs", { defaultText: "from --epochs" }),
  epochs: option(number(), "passes over the data, fractions allowed", { defaultText: String(D.epochs) }),
  lr: option(number(), "learning rate", { default: D.lr }),
  schedule: option(choice(["constant", "linear", "cosine"]), "learning rate after the warm-up", {
    default: D.schedule,
  }),
  warmup: option(number(), "linear warm-up: a share of the steps below 1, or a number of steps", { default: D.warmup }),
  batch: option(integer(), "samples of an optimizer step", { default: D.batch }),
  accumulation: option(integer(), "micro-batches a step is split into: less memory, same result", {
    default: D.accumulation,
  }),
  seq: option(integer("tokens"), "longest sample, in tokens", { default: D.seq }),
  packing: option(flag(), "pack several samples into one row of --seq tokens, without cross-talk", {
    default: D.packing,
  }),
  beta1: option(number(), "AdamW: decay of the first moment", { default: D.beta1 }),
  beta2: option(number(), "AdamW: decay of the second moment", { default: D.beta2 }),
  epsilon: option(number(), "AdamW: added to the root of the second moment", { default: D.epsilon }),
  weightDecay: option(number(), "AdamW: weight decay", { default: D.weightDecay }),
  clip: option(number(), "bound on the gradient's norm; 0: none", { default: D.clip }),
  optimizerState: option(
    choice(OPTIMIZER_CHOICES),
    "Adam's moments: f32 on the device, f32 in host memory (paged), or 8-bit codes; auto: f32, paged only where nothing else fits",
    { default: D.optimizerState },
  ),
  offloadActivations: option(
    choice(OFFLOAD_CHOICES),
    "activations in pinned host memory (cuda): auto, where copying them costs less time than computing them again; always: every layer's input, the rest recomputed",
    { default: D.offloadActivations },
  ),
  denseOptimizer: option(
    flag(),
    "move and decay all rows in every step, as the DyLoRA reference code does (for parity)",
    { default: D.denseOptimizer },
  ),
  loraPlus: option(number(), "learning rate of B over that of A (LoRA+)", { default: D.loraPlus }),
  dropout: option(number(), "probability of dropping an element of an adapter's input (slower path; 0: none)", {
    default: D.dropout,
  }),
  seed: option(integer(), "seed of all randomness", { default: D.seed }),

  // Running
  evalEvery: option(integer("steps"), "evaluate every so many steps; 0: at the end only", { default: D.evalEvery }),
  checkpointEvery: option(integer("steps"), "checkpoint every so many steps; 0: at the end and on Ctrl-C only", {
    default: D.checkpointEvery,
  }),
  keepCheckpoints: option(integer(), "checkpoints to keep", { default: D.keepCheckpoints }),
  initAdapter: option(
    text("folder", "a PEFT folder"),
    "PEFT LoRA of this model to start from, of a rank up to --rank-max",
  ),
  resume: option(flag(), "continue the run in --output exactly where its last checkpoint is", { default: false }),
  allowChanged: option(flag(), "resume even if settings, data, base or instruction set differ", { default: false }),
  shape: option(choice(SHAPE_NAMES), "model shape to measure, with random weights", { default: "tiny" }),
  drawRanks: option(flag(), "draw the rank of every step, as training does, instead of --rank", { default: false }),
  seconds: option(number("s"), "how long to measure, after a quarter of it to warm up", { default: 10 }),
  memory: option(bytes(), "memory that the run may take, base included", { defaultText: "what the device has" }),
  baseFormat: option(choice(["nf4", "fp4", "bf16", "f32"]), "format in which the base is held", {
    defaultText: "nf4, or as stored if it is 4-bit already",
  }),
  compute: option(choice(["auto", "bf16", "f32"]), "dtype of activations; auto: the fastest of the device", {
    default: D.compute,
  }),
  backend: option(
    choice(["cpu", "cuda", "reference"]),
    "what computes: native CPU kernels, an NVIDIA GPU, or the slow exact reference",
    { default: "cpu" },
  ),
  threads: option(integer(), "CPU threads", { defaultText: "all cores" }),
  isa: option(
    choice(["auto", "baseline", "avx2", "avx512", "avx512bf16", "neon", "neonbf16"]),
    "instruction set of the CPU backend",
    {
      default: "auto",
    },
  ),
  device: option(integer("n"), "which GPU of the cuda backend, as nvidia-smi counts those that are visible", {
    default: 0,
  }),
  deterministic: option(flag(), "cuda: take the library's first choice of algorithms instead of timing them", {
    default: false,
  }),

  // Using an adapter
  rank: option(integer("b"), "rank to use, 1 to the adapter's largest; 0: the base alone", {
    defaultText: "the adapter's largest",
  }),
  metric: option(choice(["none", "exact-match", "error-rate"]), "task metric from greedy answers, beside the loss", {
    default: "none",
  }),
  limit: option(integer(), "evaluate at most so many samples", { defaultText: "all" }),
  report: option(text("file", "a file name"), "write the report as HTML"),
  forceBase: option(flag(), "use the adapter although it was trained on another base", { default: false }),
  prompt: option(text("text"), "text to continue", { short: "p", defaultText: "standard input" }),
  maxNewTokens: option(integer(), "most tokens to generate", { default: 128 }),
  temperature: option(number(), "0: always the likeliest token", { default: 0 }),
  topP: option(number(), "sample from the likeliest tokens that make up this probability", { default: 1 }),
  topK: option(integer(), "sample from so many likeliest tokens; 0: from all", { default: 0 }),
  minP: option(number(), "sample from tokens at least so likely as this share of the likeliest; 0: from all", {
    default: 0,
  }),
  repetitionPenalty: option(number(), "above 1: tokens that are there already become less likely", { default: 1 }),
  stop: option(strings(), "string that ends an answer (\\n and \\t are understood), or a JSON list of them"),
  system: option(text("text"), "system message of the chat"),
  format: option(choice(["peft", "gguf", "merged", "merged-gguf"]), "format of the export", { default: "peft" }),
  dtype: option(
    dtypes(),
    "dtype of the exported weights, for all or by part of a tensor's name; the last that fits wins",
    { defaultText: "adapters: f32; merged: as the model has them; GGUF models: f16" },
  ),
  onto: option(
    choice(["trained", "original"]),
    "what merged adds the adapter to: the weights it was trained on (dequantised), or those of the model's files",
    { default: "trained" },
  ),
  requantize: option(choice(["none", "nf4", "fp4"]), "quantise merged linears again, as bitsandbytes stores them", {
    default: "none",
  }),
  shardSize: option(bytes(), "most bytes of one weights file of a merged model", { defaultText: "5GB" }),
  explain: option(flag(), "list every op and every planned buffer", { default: false }),
} as const satisfies Record<string, OptionSpec<unknown>>;

export type OptionKey = keyof typeof OPTIONS;
export type OptionValue<K extends OptionKey> = (typeof OPTIONS)[K] extends OptionSpec<infer T> ? T : never;
/** What a command gets: options without a default may be absent. */
export type OptionValues<K extends OptionKey> = { readonly [P in K]?: OptionValue<P> };

/** `rankMax` → `rank-max`: the flag without its dashes, and the YAML key. */
export const flagName = (key: string): string => key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

export function specOf(key: OptionKey): OptionSpec<unknown> {
  return OPTIONS[key];
}

/** The default as people read it, or null. */
export function defaultTextOf(key: OptionKey): string | null {
  const spec = specOf(key);
  if (spec.defaultText !== undefined) return spec.defaultText;
  return spec.default === undefined || spec.default === false ? null : spec.type.show(spec.default);
}
