// quickstart: the whole story on what comes with the package. It is `train` with a preset, and nothing else.

import { HIGHER_IS_BETTER, type MetricName } from "../eval/task-metrics.ts";
import type { Report } from "../report/report.ts";
import type { TrainEvent } from "../train/events.ts";
import { bundledBase, bundledData } from "./bundled.ts";
import type { DeviceSettings } from "./open-device.ts";
import type { ModelSettings } from "./open-model.ts";
import type { Scored } from "./score.ts";
import { type TrainOptions, train } from "./train.ts";

/** Default output folder. */
export const QUICKSTART_OUTPUT = "qdylora-quickstart";

const METRIC: MetricName = "error-rate";

/** Found by trying; what else was tried is in docs/base-model.md. Not QLoRA's recipe: the base is tiny. */
export const QUICKSTART_PRESET = {
  rankMax: 32,
  alpha: 64,
  scale: "alpha/R",
  distribution: { kind: "uniform" },
  steps: 562,
  batch: 64,
  lr: 5e-3,
  schedule: "linear",
  warmup: 20,
  clip: 1,
  seq: 64,
  checkpointEvery: 0,
  baseFormat: "nf4",
} as const satisfies Partial<TrainOptions>;

export interface QuickstartOptions extends DeviceSettings, Pick<ModelSettings, "onLoad"> {
  /** Default: `qdylora-quickstart`. */
  readonly output?: string;
  readonly seed?: number;
  /** Continue the run in `output`. */
  readonly resume?: boolean;
  /** Aborting it ends the run with a checkpoint at the next step boundary. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: TrainEvent) => void;
  readonly onScore?: (score: Scored) => void;
}

export interface QuickstartResult {
  /** Wall-clock seconds of the whole run, evaluation included. */
  readonly seconds: number;
  /** The 4-bit base without an adapter. */
  readonly base: { readonly loss: number; readonly metric: number };
  readonly ranks: readonly {
    readonly rank: number;
    readonly loss: number;
    readonly metric: number;
    readonly adapterBytes: number;
  }[];
  readonly metricName: MetricName;
  readonly higherIsBetter: boolean;
  /** The adapter's folder. */
  readonly adapter: string;
  /** The report's file. */
  readonly report: string;
}

/**
 * Fine-tunes the bundled base in NF4 on spelled words and their phonemes, once, and measures every rank on held-out words.
 * null if stopped by `signal`. Throws what `train` throws.
 */
export async function quickstart(
  options: QuickstartOptions = {},
): Promise<{ readonly result: QuickstartResult; readonly details: Report } | null> {
  const { train: data, heldOut } = bundledData();
  const { output = QUICKSTART_OUTPUT, ...rest } = options;
  const run = await train({
    ...QUICKSTART_PRESET,
    ...rest,
    model: bundledBase(),
    data,
    heldOut,
    output,
    metric: METRIC,
    title: "Spelled words to phonemes",
  });
  if (run.report === null || run.reportFile === null) return null;
  const scores = run.report.ranks.map(({ rank, loss, metric, adapterBytes }) => ({
    rank,
    loss: loss.value,
    metric: metric!.value,
    adapterBytes,
  }));
  const base = scores.find(({ rank }) => rank === 0)!;
  const result = {
    seconds: run.seconds,
    base: { loss: base.loss, metric: base.metric },
    ranks: scores.filter(({ rank }) => rank > 0),
    metricName: METRIC,
    higherIsBetter: HIGHER_IS_BETTER[METRIC],
    adapter: run.adapter,
    report: run.reportFile,
  };
  return { result, details: run.report };
}
