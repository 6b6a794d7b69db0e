// The settings of a run as a user gives them, their defaults (QLoRA's recipe, method-facts §3.5), their ranges, and the
// way from them to the resolved TrainConfig.

import { defaultRanks, type RankDistribution, type ScaleRule, type TrainingMode } from "../adapter/config.ts";
import { OPTIMIZER_CHOICES, type OptimizerChoice } from "../adapter/moments.ts";
import type { BatchConfig } from "../data/batch.ts";
import { areWhole, COLUMNS_EXPECTED, type Columns } from "../data/columns.ts";
import type { LossOn } from "../data/examples.ts";
import type { OverlongPolicy } from "../data/overlong.ts";
import { type LinearName, linearNames, type ModelConfig } from "../model/config.ts";
import { KNOWN_LINEARS } from "../model/families/index.ts";
import { OFFLOAD_CHOICES, type OffloadChoice } from "../model/memory-plan.ts";
import type { ScheduleConfig, TrainConfig } from "../train/config.ts";
import type { ModelSettings } from "./open-model.ts";
import { type Problem, throwProblems } from "./problems.ts";

/** What shapes the numbers of a run. All optional; `TRAIN_DEFAULTS` fills the rest. */
export interface TrainSettings {
  /** R, the largest rank. */
  readonly rankMax?: number;
  /** Ranks evaluated, and drawn in training under `uniform` and `weights`. Default: 1, 2, 4, … R. */
  readonly ranks?: readonly number[];
  readonly alpha?: number;
  /** Scale of rank b. `alpha/b` is the paper's. */
  readonly scale?: ScaleRule;
  readonly mode?: TrainingMode;
  readonly distribution?: RankDistribution;
  /** Linears that get an adapter, by the names of their modules. Default: all of each block. */
  readonly targets?: readonly LinearName[];
  readonly lr?: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly weightDecay?: number;
  /** Bound on the gradient's norm; 0: none. */
  readonly clip?: number;
  readonly schedule?: ScheduleConfig["kind"];
  /** Below 1: share of the steps. From 1: steps. */
  readonly warmup?: number;
  /** Optimizer steps. Excludes `epochs`. */
  readonly steps?: number;
  /** Passes over the data (may be a fraction). Excludes `steps`. */
  readonly epochs?: number;
  /** Samples (packed rows with `packing`) of an optimizer step. */
  readonly batch?: number;
  /** Micro-batches a step is split into: less memory, the same result. */
  readonly accumulation?: number;
  /** Longest sample, in tokens. */
  readonly seq?: number;
  readonly packing?: boolean;
  readonly seed?: number;
  readonly evalEvery?: number;
  readonly checkpointEvery?: number;
  readonly keepCheckpoints?: number;
  /** Bytes that the run may take on the device, base included; absent: what the device has. */
  readonly memory?: number;
  /** How Adam's moments are kept, and where. */
  readonly optimizerState?: OptimizerChoice;
  /** Whether activations may wait in the host's memory. Default: auto, where that costs less time than computing them again. */
  readonly offloadActivations?: OffloadChoice;
  readonly denseOptimizer?: boolean;
  /** Learning rate of B over that of A (LoRA+). */
  readonly loraPlus?: number;
  /** Probability of dropping an element of an adapter's input; takes a slower path, since each linear gets its own mask. */
  readonly dropout?: number;
}

export interface DataSettings {
  /** JSONL files or folders of them. */
  readonly data: string | readonly string[];
  /** A file of held-out samples; or the share (below 1) or number of rows of `data` to hold out; 0: none. */
  readonly heldOut?: string | number;
  /** What to do with samples longer than `seq`. Default: error. */
  readonly overlong?: OverlongPolicy;
  /** Which tokens are learned. Default: completion (answers only, their end token included). */
  readonly lossOn?: LossOn;
  /** Skip and count broken rows instead of stopping at the first. */
  readonly skipBadRows?: boolean;
  /** Which keys of a row mean what, for rows with other names: `{ prompt: "question", completion: "answer" }`. */
  readonly columns?: Columns;
}

export const TRAIN_DEFAULTS = {
  rankMax: 64,
  alpha: 16,
  scale: "alpha/b",
  mode: "dylora",
  distribution: { kind: "uniform" },
  lr: 2e-4,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  clip: 0.3,
  schedule: "constant",
  warmup: 0.03,
  epochs: 1,
  batch: 16,
  accumulation: 1,
  seq: 512,
  packing: false,
  seed: 1,
  evalEvery: 0,
  checkpointEvery: 100,
  keepCheckpoints: 2,
  optimizerState: "auto",
  offloadActivations: "auto",
  denseOptimizer: false,
  loraPlus: 1,
  dropout: 0,
  heldOut: 0.05,
  overlong: "error",
  skipBadRows: false,
  lossOn: "completion",
  baseFormat: "nf4",
  compute: "auto",
} as const satisfies Partial<TrainSettings> & Partial<DataSettings> & Partial<ModelSettings>;

const LARGEST_RANK = 4096;

/** Every problem with these settings; empty if they are sound. */
export function trainProblems(settings: Partial<TrainSettings & DataSettings>): Problem[] {
  return [
    ...rangeProblems(settings),
    ...rankProblems(settings),
    ...distributionProblems(settings),
    ...crossProblems(settings),
    ...columnProblems(settings.columns),
  ];
}

interface Range {
  readonly key: keyof TrainSettings | "heldOut";
  readonly test: (value: number) => boolean;
  readonly expected: string;
}

const positive = (value: number): boolean => Number.isFinite(value) && value > 0;
const atLeastZero = (value: number): boolean => Number.isFinite(value) && value >= 0;
const whole =
  (min: number, max = Number.MAX_SAFE_INTEGER) =>
  (value: number): boolean =>
    Number.isSafeInteger(value) && value >= min && value <= max;
const belowOne = (value: number): boolean => value >= 0 && value < 1;

const RANGES: readonly Range[] = [
  { key: "alpha", test: positive, expected: "a number above 0" },
  { key: "lr", test: positive, expected: "a number above 0" },
  { key: "beta1", test: belowOne, expected: "a number from 0 to below 1" },
  { key: "beta2", test: belowOne, expected: "a number from 0 to below 1" },
  { key: "epsilon", test: positive, expected: "a number above 0" },
  { key: "weightDecay", test: atLeastZero, expected: "a number from 0" },
  { key: "clip", test: atLeastZero, expected: "a number from 0 (0: no clipping)" },
  { key: "warmup", test: (v) => belowOne(v) || whole(1)(v), expected: "a share below 1 or a whole number of steps" },
  { key: "steps", test: whole(1), expected: "a whole number from 1" },
  { key: "epochs", test: positive, expected: "a number above 0" },
  { key: "batch", test: whole(1), expected: "a whole number from 1" },
  { key: "accumulation", test: whole(1), expected: "a whole number from 1" },
  { key: "seq", test: whole(2), expected: "a whole number from 2" },
  { key: "seed", test: whole(0), expected: "a whole number from 0" },
  { key: "evalEvery", test: whole(0), expected: "a whole number from 0" },
  { key: "checkpointEvery", test: whole(0), expected: "a whole number from 0" },
  { key: "keepCheckpoints", test: whole(1), expected: "a whole number from 1" },
  { key: "memory", test: positive, expected: "a size above 0" },
  { key: "loraPlus", test: positive, expected: "a number above 0" },
  { key: "dropout", test: belowOne, expected: "a number from 0 to below 1" },
  {
    key: "heldOut",
    test: (v) => belowOne(v) || whole(1)(v),
    expected: "a file, a share of the data below 1, or a number of rows",
  },
];

function rangeProblems(settings: Partial<TrainSettings & DataSettings>): Problem[] {
  return RANGES.flatMap(({ key, test, expected }) => {
    const value = settings[key];
    return value === undefined || typeof value === "string" || test(value as number)
      ? []
      : [{ key, got: value, expected }];
  });
}

/** Columns that make no row. */
export function columnProblems(columns: Columns | undefined): Problem[] {
  if (columns === undefined || areWhole(columns)) return [];
  return [{ key: "columns", got: columns, expected: COLUMNS_EXPECTED }];
}

function rankProblems(settings: TrainSettings): Problem[] {
  const rankMax = settings.rankMax ?? TRAIN_DEFAULTS.rankMax;
  const code = "RANK_OUT_OF_RANGE" as const;
  if (!whole(1, LARGEST_RANK)(rankMax))
    return [{ key: "rankMax", got: rankMax, expected: `a whole number from 1 to ${LARGEST_RANK}`, code }];
  const ranks = settings.ranks;
  if (!ranks) return [];
  const sound = ranks.every((rank, i) => whole(1, rankMax)(rank) && (i === 0 || rank > ranks[i - 1]!));
  if (sound && ranks.at(-1) === rankMax) return [];
  const expected = `ascending whole numbers from 1 to ${rankMax}, the last one ${rankMax}`;
  return [
    { key: "ranks", got: ranks, expected, because: "rankMax is the last rank that is trained and evaluated", code },
  ];
}

function distributionProblems(settings: TrainSettings): Problem[] {
  const distribution = settings.distribution;
  const key = "distribution";
  if (distribution?.kind === "geometric" && !(distribution.p > 0 && distribution.p < 1))
    return [{ key, got: distribution, expected: "geometric with p between 0 and 1" }];
  if (distribution?.kind === "mixture" && !(distribution.share >= 0 && distribution.share <= 1))
    return [{ key, got: distribution, expected: "mixture with a share from 0 to 1" }];
  if (distribution?.kind !== "weights") return [];
  const ranks = settings.ranks ?? defaultRanks(settings.rankMax ?? TRAIN_DEFAULTS.rankMax);
  const sound =
    distribution.weights.length === ranks.length &&
    distribution.weights.every(atLeastZero) &&
    distribution.weights.some(positive);
  const because = `the ranks are ${ranks.join(", ")}`;
  return sound
    ? []
    : [{ key, got: distribution, expected: `${ranks.length} weights from 0, one of them above 0,`, because }];
}

function crossProblems(settings: Partial<TrainSettings & DataSettings>): Problem[] {
  const problems: Problem[] = [];
  const batch = settings.batch ?? TRAIN_DEFAULTS.batch;
  const accumulation = settings.accumulation ?? TRAIN_DEFAULTS.accumulation;
  if (whole(1)(batch) && whole(1)(accumulation) && batch % accumulation !== 0)
    problems.push({
      key: "accumulation",
      got: accumulation,
      expected: `a divisor of the batch of ${batch}`,
      because: "every micro-batch has the same number of samples",
    });
  if (settings.steps !== undefined && settings.epochs !== undefined)
    problems.push({
      key: "epochs",
      got: settings.epochs,
      expected: "steps or epochs, not both",
      because: `steps is ${settings.steps}`,
    });
  if (settings.optimizerState !== undefined && !OPTIMIZER_CHOICES.includes(settings.optimizerState))
    problems.push({
      key: "optimizerState",
      got: settings.optimizerState,
      expected: `one of ${OPTIMIZER_CHOICES.join(", ")}`,
    });
  if (settings.offloadActivations !== undefined && !OFFLOAD_CHOICES.includes(settings.offloadActivations))
    problems.push({
      key: "offloadActivations",
      got: settings.offloadActivations,
      expected: `one of ${OFFLOAD_CHOICES.join(", ")}`,
    });
  if (settings.targets?.length === 0)
    problems.push({ key: "targets", got: [], expected: `at least one of ${KNOWN_LINEARS.join(", ")}` });
  for (const name of settings.targets ?? []) if (!KNOWN_LINEARS.includes(name)) problems.push(targetProblem(name));
  return problems;
}

const HEAD_OR_EMBEDDING = /embed|lm_head|wte/;

/** Why `name` cannot carry an adapter. */
export function targetProblem(name: string): Problem {
  const because = HEAD_OR_EMBEDDING.test(name)
    ? "embeddings and lm_head stay in 16 bit and frozen: they may be tied, and a nested rank of a look-up saves nothing"
    : "adapters sit on the linear layers of the blocks";
  return { key: "targets", got: name, expected: `names out of ${KNOWN_LINEARS.join(", ")}, or "all",`, because };
}

/** How samples become micro-batches. The settings must be free of problems. */
export function batchConfigOf(settings: TrainSettings): BatchConfig {
  const { batch, accumulation, seq, packing } = withDefaults(settings);
  return { seq, microBatch: batch / accumulation, accumulation, packing };
}

/**
 * The resolved settings of a run of `steps` optimizer steps on a model. The settings must be free of problems.
 * Throws CONFIG_INVALID if a target is a linear of other models only.
 */
export function resolveTrainConfig(settings: TrainSettings, model: ModelConfig, steps: number): TrainConfig {
  const s = withDefaults(settings);
  if (model.learnedPositions && s.seq > model.maxPositions)
    throwProblems("train", [
      {
        key: "seq",
        got: s.seq,
        expected: `at most ${model.maxPositions}`,
        because: `${model.architecture} has learned as many positions`,
      },
    ]);
  return {
    adapter: {
      rankMax: s.rankMax,
      alpha: s.alpha,
      scaleRule: s.scale,
      targets: targetsIn(model, s.targets),
      mode: s.mode,
      ranks: s.ranks ?? defaultRanks(s.rankMax),
      distribution: s.distribution,
      dropout: s.dropout,
    },
    optimizer: {
      state: s.optimizerState,
      learningRate: s.lr,
      beta1: s.beta1,
      beta2: s.beta2,
      epsilon: s.epsilon,
      weightDecay: s.weightDecay,
      maxGradNorm: s.clip,
      dense: s.denseOptimizer,
      loraPlusRatio: s.loraPlus,
    },
    schedule: { kind: s.schedule, warmupSteps: s.warmup < 1 ? Math.round(s.warmup * steps) : s.warmup, steps },
    batch: batchConfigOf(settings),
    seed: s.seed,
    initialAdapterSha256: null,
    evalEvery: s.evalEvery,
    checkpointEvery: s.checkpointEvery,
    keepCheckpoints: s.keepCheckpoints,
    offloadActivations: s.offloadActivations,
    memoryBytes: s.memory ?? null,
  };
}

/** In the order of the forward. */
function targetsIn(model: ModelConfig, targets: readonly LinearName[] | undefined): LinearName[] {
  const names = linearNames(model);
  const foreign = (targets ?? []).filter((name) => !names.includes(name));
  throwProblems(
    "train",
    foreign.map((got) => ({
      key: "targets",
      got,
      expected: `names out of ${names.join(", ")}`,
      because: `the model is ${model.architecture}`,
    })),
  );
  return names.filter((name) => targets?.includes(name) ?? true);
}

type Optional = "ranks" | "steps" | "memory" | "targets";
type Defaulted = Required<Omit<TrainSettings, Optional>> & Pick<TrainSettings, Optional>;

/** The settings with every default filled in; a setting that is `undefined` counts as absent. */
export function withDefaults(settings: TrainSettings): Defaulted {
  const given = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
  return { ...TRAIN_DEFAULTS, ...given } as Defaulted;
}
