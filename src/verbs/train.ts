// train: one run over a frozen base gives one adapter for every rank from 1 to R, with its scores and a report.

import { writeAdapter } from "../adapter/file.ts";
import { initialWeights } from "../adapter/initial-weights.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import type { Adapter } from "../adapter/parameters.ts";
import { startFromLora } from "../adapter/start-from-lora.ts";
import type { Sample } from "../data/batch.ts";
import { BatchPlan } from "../data/batches.ts";
import { hashSamples } from "../data/dataset.ts";
import type { MetricName } from "../eval/task-metrics.ts";
import { hasBlocks } from "../formats/gguf-model.ts";
import type { NodeFolder } from "../formats/node-files.ts";
import type { ModelConfig } from "../model/config.ts";
import { type BaseError, measureBaseError } from "../quant/base-error.ts";
import { reportHtml } from "../report/html.ts";
import type { Report } from "../report/report.ts";
import type { TrainConfig } from "../train/config.ts";
import type { TrainEvent } from "../train/events.ts";
import { fingerprintOf } from "../train/fingerprint.ts";
import { type SessionShapes, summaryOf, TrainingSession } from "../train/session.ts";
import { EVENT_LOG, trainAdapter } from "../train/train.ts";
import { type InitialAdapter, openInitialAdapter } from "./initial-adapter.ts";
import { makeReport } from "./make-report.ts";
import { type ModelSettings, type OpenBase, openBase, openModelFiles } from "./open-model.ts";
import { throwProblems } from "./problems.ts";
import { readTrainingData, type TrainingData } from "./read-data.ts";
import { openRunFolder } from "./run-folder.ts";
import { evaluationBatches, type Scored, scoreAnswers, scoringShape } from "./score.ts";
import {
  batchConfigOf,
  type DataSettings,
  resolveTrainConfig,
  TRAIN_DEFAULTS,
  type TrainSettings,
  trainProblems,
  withDefaults,
} from "./train-options.ts";
import { version } from "./version.ts";

export interface TrainOptions extends TrainSettings, DataSettings, ModelSettings {
  /** Folder for adapter, checkpoints, event log and report. */
  readonly output: string;
  /** A PEFT folder with a LoRA of this model to start from, of a rank up to `rankMax`. */
  readonly initAdapter?: string;
  /** Continue the run in `output` from its last checkpoint, to the same bits as if it had never stopped. */
  readonly resume?: boolean;
  /** Resume although settings, data, base or instruction set differ. */
  readonly allowChanged?: boolean;
  /** A task metric to measure on the held-out samples beside the loss. */
  readonly metric?: MetricName | "none";
  /** Title of the report. */
  readonly title?: string;
  /** Aborting it ends the run with a checkpoint at the next step boundary. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: TrainEvent) => void;
  /** Hears how far the base is from a GGUF file of blocks, which are quantised again when they are loaded. */
  readonly onBaseError?: (error: BaseError) => void;
  /** Hears of the final scores rank by rank. */
  readonly onScore?: (score: Scored) => void;
}

export interface TrainResult {
  /** The adapter's folder: `output`. */
  readonly adapter: string;
  /** true: stopped by `signal`; there is a checkpoint and no adapter yet. */
  readonly interrupted: boolean;
  readonly steps: number;
  readonly seconds: number;
  /** The report's file, or null if interrupted. */
  readonly reportFile: string | null;
  /** null if interrupted. */
  readonly report: Report | null;
}

/**
 * Fine-tunes an adapter and writes it to `output`.
 * Throws CONFIG_INVALID and RANK_OUT_OF_RANGE with every problem, RUN_EXISTS, RUN_LOCKED, RESUME_MISMATCH, MEMORY_EXCEEDED,
 * LOSS_NONFINITE, WRITE_FAILED, and what reading the model and the data throws.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  throwProblems("train", trainProblems(options));
  const began = performance.now();
  await using run = await openRunFolder(options.output, options.resume ?? false);
  await using files = await openModelFiles(options.model, options);
  const settings = withDefaults(options);
  const loading = { ...dataOptions(options), seq: settings.seq };
  const data = await readTrainingData(
    options.data,
    options.heldOut ?? TRAIN_DEFAULTS.heldOut,
    files.tokenizer,
    loading,
    settings.seed,
  );
  const batches = new BatchPlan(data.train, batchConfigOf(options), settings.seed);
  const resolved = resolveTrainConfig(options, files.config, options.steps ?? stepsFor(batches, settings.epochs));
  await using start = await initialAdapter(options, files.config, resolved);
  const config = { ...resolved, initialAdapterSha256: start?.sha256 ?? null };
  await using base = await openBase(files, options);
  if (options.onBaseError && hasBlocks(files.checkpoint))
    options.onBaseError(await measureBaseError(base.backend, base.model, files.checkpoint));
  const outcome = await learn({ options, config, base, data, batches, folder: run.folder, start });
  return { adapter: options.output, seconds: (performance.now() - began) / 1000, ...outcome };
}

async function initialAdapter({ initAdapter }: TrainOptions, model: ModelConfig, { adapter }: TrainConfig) {
  return initAdapter === undefined ? null : openInitialAdapter(initAdapter, model, adapter);
}

const dataOptions = ({ overlong, skipBadRows, lossOn, columns }: DataSettings) => ({
  ...(overlong === undefined ? {} : { overlong }),
  ...(skipBadRows === undefined ? {} : { skipBadRows }),
  ...(lossOn === undefined ? {} : { lossOn }),
  ...(columns === undefined ? {} : { columns }),
});

function stepsFor(batches: BatchPlan, epochs: number): number {
  return Number.isInteger(epochs)
    ? batches.stepsForEpochs(epochs)
    : Math.max(1, Math.round(batches.stepsForEpochs(1) * epochs));
}

interface Run {
  readonly options: TrainOptions;
  readonly config: TrainConfig;
  readonly base: OpenBase;
  readonly data: TrainingData;
  readonly batches: BatchPlan;
  readonly folder: NodeFolder;
  readonly start: InitialAdapter | null;
}

async function learn(run: Run): Promise<Omit<TrainResult, "adapter" | "seconds">> {
  const { options, config, base, data, batches, folder } = run;
  const { backend, model } = base;
  using session = new TrainingSession(backend, model, config, shapesOf(batches, data.heldOut));
  const { adapter, learner, scorer } = session;
  adapter.load(initialWeights(model.config, config.adapter, config.seed));
  if (run.start) await startFromLora(adapter, run.start.peft, model.config);
  const dataSha256 = hashSamples(data.train);
  const result = await trainAdapter({
    backend,
    adapter,
    config,
    learner,
    plan: summaryOf(session.estimate),
    scorer,
    step: (index) => batches.step(index),
    heldOut: evaluationBatches(data.heldOut),
    folder,
    fingerprint: fingerprintOf({
      config,
      base: model.identity,
      dataSha256,
      instructionSet: backend.instructionSet,
      computeDtype: model.computeDtype,
    }),
    resume: options.resume ?? false,
    allowChanged: options.allowChanged ?? false,
    signal: options.signal ?? new AbortController().signal,
    onEvent: options.onEvent ?? (() => {}),
  });
  // Answers and the adapter's copy on the host take the place of the arena.
  session.releaseArena();
  if (result.interrupted) return { interrupted: true, steps: result.step, reportFile: null, report: null };
  const metric = data.heldOut.length === 0 || options.metric === "none" ? null : (options.metric ?? null);
  const request = {
    ...base,
    adapter,
    samples: data.heldOut,
    ranks: [],
    metric,
    seed: config.seed,
    onScore: options.onScore,
  };
  const scores = await scoreAnswers(request, result.evaluations);
  const report = await writeResults(run, adapter, scores, metric, dataSha256);
  return { interrupted: false, steps: result.step, reportFile: `${options.output}/report.html`, report };
}

/** Row counts that no batch of the run exceeds. */
export function shapesOf(batches: BatchPlan, heldOut: readonly Sample[]): SessionShapes {
  return { training: { N: batches.maxRows, S: batches.maxSegments, Q: 0 }, scoring: scoringShape(heldOut) };
}

async function writeResults(
  run: Run,
  adapter: Adapter,
  scores: readonly Scored[],
  metric: MetricName | null,
  dataSha256: string,
): Promise<Report> {
  const { options, config, base, data, folder } = run;
  const { backend, model, tokenizer } = base;
  const manifest: AdapterManifest = {
    format: "qdylora-adapter/1",
    adapter: config.adapter,
    base: model.identity,
    scores: scores.map(({ rank, loss, metric: value }) => ({
      rank,
      loss: loss.value,
      ...(value ? { metric: value.value } : {}),
    })),
    ...(metric ? { metricName: metric } : {}),
    provenance: {
      qdylora: version,
      node: process.version,
      device: backend.description,
      instructionSet: backend.instructionSet,
      seed: config.seed,
      steps: config.schedule.steps,
      dataSha256,
      train: config,
    },
  };
  const report = makeReport({
    title: options.title ?? `Adapter for ${model.identity.name}`,
    summary: `One run of ${config.schedule.steps} steps over a frozen ${model.identity.format} base gave this adapter; each rank below is its first rows, measured on ${data.heldOut.length} held-out samples.`,
    manifest,
    model: model.config,
    tokenizer,
    heldOut: data.heldOut,
    metric,
    scores,
    events: await readEvents(folder),
  });
  await folder.write("report.json", new TextEncoder().encode(`${JSON.stringify(report, null, 2)}\n`));
  await folder.write("report.html", new TextEncoder().encode(reportHtml(report)));
  await writeAdapter(folder, { rank: config.adapter.rankMax, tensors: await adapter.weights() }, manifest);
  return report;
}

/** The whole run's events, those from before a resume included. */
async function readEvents(folder: NodeFolder): Promise<TrainEvent[]> {
  const text = new TextDecoder().decode(await folder.read(EVENT_LOG));
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as TrainEvent);
}
