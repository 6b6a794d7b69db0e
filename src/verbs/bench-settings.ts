// What the benches share: their settings, random models of true shapes, and full batches. Weights are random: speed does not
// depend on them.

import type { OptimizerChoice } from "../adapter/moments.ts";
import type { Backend } from "../backends/backend.ts";
import type { Batch, Sample } from "../data/batch.ts";
import { layOut } from "../data/layout.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import type { OffloadChoice } from "../model/memory-plan.ts";
import { namedShape, SHAPE_NAMES, type ShapeName } from "../model/named-shapes.ts";
import type { BaseFormat } from "../ops/frozen-weight.ts";
import { randomBase } from "../quant/random-base.ts";
import { randomStream } from "../random/philox.ts";
import type { DeviceSettings } from "./open-device.ts";
import { type Problem, throwProblems } from "./problems.ts";

export interface BenchSettings extends DeviceSettings {
  /** Default: tiny. */
  readonly shape?: ShapeName;
  /** Default: 64. */
  readonly rankMax?: number;
  /** Default: rankMax. */
  readonly rank?: number;
  /** Sequences of a step. Default: 4. */
  readonly batch?: number;
  /** Tokens of a sequence. Default: 256. */
  readonly seq?: number;
  readonly baseFormat?: BaseFormat;
  readonly compute?: "auto" | "bf16" | "f32";
  /** How the optimizer's moments are kept, and where. Default: auto. */
  readonly optimizerState?: OptimizerChoice;
  /** Whether activations may wait in the host's memory. Default: auto. */
  readonly offloadActivations?: OffloadChoice;
  /** Draw the rank of every step from 1 to rankMax, as training does, instead of `rank`. */
  readonly drawRanks?: boolean;
  /** Bytes that the run may take on the device. */
  readonly memory?: number;
  /** Seconds of measuring, after a quarter of it to warm up. Default: 10. */
  readonly seconds?: number;
}

const DEFAULTS = {
  shape: "tiny",
  rankMax: 64,
  batch: 4,
  seq: 256,
  baseFormat: "nf4",
  compute: "auto",
  optimizerState: "auto",
  offloadActivations: "auto",
  drawRanks: false,
  seconds: 10,
} as const;

export type CheckedBench = Required<Omit<BenchSettings, keyof DeviceSettings | "memory">> &
  DeviceSettings &
  Pick<BenchSettings, "memory">;

export function checkBench(options: BenchSettings): CheckedBench {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const merged = { ...DEFAULTS, ...given } as Omit<CheckedBench, "rank"> & Pick<BenchSettings, "rank">;
  const settings = { ...merged, rank: merged.rank ?? merged.rankMax };
  const problems: Problem[] = [];
  if (!SHAPE_NAMES.includes(settings.shape))
    problems.push({ key: "shape", got: settings.shape, expected: `one of ${SHAPE_NAMES.join(", ")}` });
  for (const key of ["rankMax", "batch", "seq"] as const)
    if (!(Number.isSafeInteger(settings[key]) && settings[key] >= 1))
      problems.push({ key, got: settings[key], expected: "a whole number from 1" });
  if (!(Number.isSafeInteger(settings.rank) && settings.rank >= 0 && settings.rank <= settings.rankMax))
    problems.push({ key: "rank", got: settings.rank, expected: `a whole number from 0 to ${settings.rankMax}` });
  if (!(settings.seconds > 0)) problems.push({ key: "seconds", got: settings.seconds, expected: "a number above 0" });
  throwProblems("bench", problems);
  return settings;
}

/** The caller disposes it. Throws MEMORY_EXCEEDED. */
export function randomModel(backend: Backend, { shape, baseFormat, compute }: CheckedBench): FrozenModel {
  const computeDtype = compute === "auto" ? backend.computeDtype : compute;
  return randomBase(backend, { config: namedShape(shape), format: baseFormat, computeDtype }, 1);
}

/** Sequences of random tokens in which every token predicts one. */
export function fullBatch(count: number, seq: number, vocabulary: number): Batch {
  const stream = randomStream(1, "bench");
  const samples = Array.from({ length: count }, (_, id): Sample => {
    const tokens = Int32Array.from({ length: seq }, (_, i) => stream.below(vocabulary, i, id));
    return { id, file: "bench", line: id + 1, tokens, supervised: new Uint8Array(seq).fill(1) };
  });
  const batch = layOut(samples);
  // The last token of a sample predicts nothing in training; here it predicts itself, so that every row counts.
  const targets = batch.targets.map((target, row) => (target < 0 ? batch.tokens[row]! : target));
  return { ...batch, targets, supervised: targets.length };
}

/** Throws CONFIG_INVALID for a backend without a peak of its own. */
export function needPeak(backend: Backend): void {
  if (!backend.measurePeak)
    throwProblems("bench", [
      { key: "backend", got: backend.name, expected: "one whose peak can be measured: cpu, cuda" },
    ]);
}
