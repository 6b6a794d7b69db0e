// The training loop, from top to bottom: draw a rank, accumulate the gradients of the step's micro-batches at that rank,
// clip, update the rows below it; evaluate, checkpoint, tell.

import { scaleAt } from "../adapter/config.ts";
import type { Adapter } from "../adapter/parameters.ts";
import { drawRank, rowWindow } from "../adapter/rank-draw.ts";
import type { Backend } from "../backends/backend.ts";
import type { Batch } from "../data/batch.ts";
import { QdlError } from "../errors.ts";
import { evaluateRanks, type RankEvaluation } from "../eval/rank-sweep.ts";
import type { Folder } from "../formats/folder.ts";
import { breathe } from "../model/breathe.ts";
import { type LossProgram, uniformRange } from "../model/loss-program.ts";
import type { RankRange } from "../ops/rank-range.ts";
import { type CheckpointState, pruneCheckpoints, restoreCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import type { TrainConfig } from "./config.ts";
import type { TrainEvent } from "./events.ts";
import type { Fingerprint } from "./fingerprint.ts";
import { RowWindowedAdamW } from "./optimizer.ts";
import { scheduleFactor } from "./schedule.ts";
import type { PlanSummary } from "./session.ts";

/** Steps in a row with a loss or gradient that is not finite after which a run gives up. */
const NONFINITE_LIMIT = 3;

export const EVENT_LOG = "events.jsonl";
/** What the device chose by timing: a resumed run takes it over, to give the same bits. */
const TUNING_FILE = "tuning.json";

export interface TrainingRun {
  readonly backend: Backend;
  readonly adapter: Adapter;
  readonly config: TrainConfig;
  /** Forward, loss and backward of a micro-batch. */
  readonly learner: LossProgram;
  readonly plan: PlanSummary;
  /** Forward and loss. */
  readonly scorer: LossProgram;
  /** The micro-batches of optimizer step `index` (0-based): a pure function, so that a resumed run sees the same. */
  readonly step: (index: number) => readonly Batch[];
  /** Held-out micro-batches; may be empty. */
  readonly heldOut: readonly Batch[];
  /** Receives checkpoints and the event log. */
  readonly folder: Folder;
  readonly fingerprint: Fingerprint;
  /** Go on from the folder's newest checkpoint. */
  readonly resume: boolean;
  readonly allowChanged: boolean;
  /** Aborting it ends the run with a checkpoint at the next step boundary. */
  readonly signal: AbortSignal;
  readonly onEvent: (event: TrainEvent) => void;
}

export interface TrainingResult {
  /** Optimizer steps done. */
  readonly step: number;
  readonly interrupted: boolean;
  /** Held-out scores after the last step at rank 0 (the base) and every evaluated rank; empty if interrupted or no held-out data. */
  readonly evaluations: readonly RankEvaluation[];
}

/**
 * Trains `adapter` in place.
 * Throws LOSS_NONFINITE, RESUME_MISMATCH, CHECKPOINT_INVALID, WRITE_FAILED; the last checkpoint is intact in each case.
 */
export async function trainAdapter(run: TrainingRun): Promise<TrainingResult> {
  using optimizer = new RowWindowedAdamW(run.backend, run.adapter, run.config.optimizer);
  const log = new EventLog(run);
  const drawn = drawing(run);
  const keepTuning = await openTuning(run);
  const { config, signal } = run;
  const restored = run.resume
    ? await restoreCheckpoint(run.folder, run.adapter, optimizer, run.fingerprint, run.allowChanged)
    : null;
  await log.open(restored);
  // A run killed between writing a checkpoint and removing an old one left one too many.
  if (run.resume) await pruneCheckpoints(run.folder, config.keepCheckpoints);
  const { steps } = config.schedule;
  const start = restored?.step ?? 0;
  let nonFinite = restored?.nonFinite ?? 0;
  let evaluations: RankEvaluation[] = [];
  const began = performance.now();
  await log.tell({ type: "start", step: start, steps, resumed: restored !== null, ...run.plan });
  const checkpoint = async (step: number): Promise<void> => {
    const state = { step, nonFinite, logBytes: log.bytes, fingerprint: run.fingerprint };
    const written = await writeCheckpoint(run.folder, run.adapter, optimizer, state, config.keepCheckpoints);
    await log.tell({ type: "checkpoint", step, ...written });
  };

  for (let step = start; step < steps; step++) {
    if (signal.aborted) {
      if (step > start) await checkpoint(step);
      await log.tell({ type: "interrupted", step });
      return { step, interrupted: true, evaluations: [] };
    }
    const outcome = await trainStep(run, optimizer, drawn, step);
    await keepTuning();
    const secondsLeft = ((performance.now() - began) / 1000 / (step + 1 - start)) * (steps - step - 1);
    await log.tell(outcome.type === "step" ? { ...outcome, secondsLeft } : outcome);
    nonFinite = outcome.type === "skipped" && outcome.reason !== "unsupervised" ? nonFinite + 1 : 0;
    if (nonFinite >= NONFINITE_LIMIT) throw diverged(step, run.folder.path);

    const done = step + 1;
    const last = done === steps;
    if (last || (config.checkpointEvery > 0 && done % config.checkpointEvery === 0)) await checkpoint(done);
    if (run.heldOut.length > 0 && !last && config.evalEvery > 0 && done % config.evalEvery === 0)
      await evaluate(run, log, done, config.adapter.ranks);
  }
  if (run.heldOut.length > 0) evaluations = await evaluate(run, log, steps, [0, ...config.adapter.ranks]);
  await log.tell({ type: "end", step: steps, seconds: (performance.now() - began) / 1000 });
  return { step: steps, interrupted: false, evaluations };
}

/** Takes over what an earlier part of the run chose by timing. Returns what writes new choices down, before any checkpoint. */
async function openTuning({ backend: { tuning }, folder, resume }: TrainingRun): Promise<() => Promise<void>> {
  if (!tuning) return async () => {};
  if (resume && (await folder.exists(TUNING_FILE)))
    tuning.load(new TextDecoder().decode(await folder.read(TUNING_FILE)));
  let written = 0;
  return async () => {
    if (tuning.size === written) return;
    written = tuning.size;
    await folder.write(TUNING_FILE, new TextEncoder().encode(tuning.save()));
  };
}

type StepOutcome =
  | Omit<Extract<TrainEvent, { type: "step" }>, "secondsLeft">
  | Extract<TrainEvent, { type: "skipped" }>;

/** One optimizer step: Σ cross-entropy over all supervised tokens of all micro-batches ÷ their number, at one rank. */
async function trainStep(
  run: TrainingRun,
  optimizer: RowWindowedAdamW,
  drawn: (step: number) => Drawn,
  step: number,
): Promise<StepOutcome> {
  const { config, learner } = run;
  const began = performance.now();
  const { rank, batches } = drawn(step);
  const window = rowWindow(config.adapter, rank);
  const supervised = batches.reduce((sum, batch) => sum + batch.supervised, 0);
  if (supervised === 0) return { type: "skipped", step, rank, reason: "unsupervised" };

  optimizer.zeroGradients();
  const learningRate = config.optimizer.learningRate * scheduleFactor(config.schedule, step);
  let update: (() => Promise<number>) | null = null;
  let total = 0;
  let tokens = 0;
  for (const [i, batch] of batches.entries()) {
    const enqueued = learner.run(batch, rangesOf(run, batch, rank), 1 / supervised, step);
    // Binding takes the host a while, in which the device has something to do.
    update ??= optimizer.prepare(window, learningRate);
    const next = batches[i + 1];
    const [losses] = await Promise.all([
      enqueued,
      next ? prepare(run, next, rank, step) : prepareStep(run, drawn, step + 1),
    ]);
    total += losses.reduce((sum, loss) => sum + loss, 0);
    tokens += batch.tokens.length;
    await breathe();
  }
  const loss = total / supervised;
  if (!Number.isFinite(loss)) return { type: "skipped", step, rank, reason: "loss" };
  const gradNorm = await update!();
  if (!Number.isFinite(gradNorm)) return { type: "skipped", step, rank, reason: "gradient" };
  const tokensPerSecond = tokens / ((performance.now() - began) / 1000);
  return { type: "step", step, loss, rank, gradNorm, learningRate, tokens, supervised, tokensPerSecond };
}

/** What a step trains on, and at which rank. */
interface Drawn {
  readonly step: number;
  readonly rank: number;
  readonly batches: readonly Batch[];
}

/** Draws steps one after the other, each once: the step before makes it ready. */
function drawing({ config, step: batchesOf }: TrainingRun): (step: number) => Drawn {
  const { adapter, seed } = config;
  const rankAt = (step: number) => (adapter.mode === "fixed" ? adapter.rankMax : drawRank(adapter, seed, step));
  let last: Drawn | null = null;
  return (step) => {
    if (last?.step !== step) last = { step, rank: rankAt(step), batches: batchesOf(step) };
    return last;
  };
}

const rangesOf = ({ config: { adapter } }: TrainingRun, batch: Batch, rank: number): RankRange[] =>
  uniformRange(batch, rank, scaleAt(adapter, rank));

async function prepare(run: TrainingRun, batch: Batch, rank: number, step: number): Promise<void> {
  run.learner.prepare(batch, rangesOf(run, batch, rank), step);
}

async function prepareStep(run: TrainingRun, drawn: (step: number) => Drawn, step: number): Promise<void> {
  if (step === run.config.schedule.steps) return;
  const { rank, batches } = drawn(step);
  await prepare(run, batches[0]!, rank, step);
}

async function evaluate(
  run: TrainingRun,
  log: EventLog,
  step: number,
  ranks: readonly number[],
): Promise<RankEvaluation[]> {
  const began = performance.now();
  const evaluations = await evaluateRanks(run.scorer, run.heldOut, run.config.adapter, ranks);
  const scores = evaluations.map(({ rank, loss }) => ({ rank, loss }));
  await log.tell({ type: "eval", step, scores, seconds: (performance.now() - began) / 1000 });
  return evaluations;
}

/** events.jsonl: one line per event. A resumed run first cuts it back to its checkpoint, so that every step is there once. */
class EventLog {
  readonly #run: TrainingRun;
  bytes = 0;

  constructor(run: TrainingRun) {
    this.#run = run;
  }

  async open(restored: CheckpointState | null): Promise<void> {
    this.bytes = restored?.logBytes ?? 0;
    if (await this.#run.folder.exists(EVENT_LOG)) await this.#run.folder.truncate(EVENT_LOG, this.bytes);
  }

  async tell(event: TrainEvent): Promise<void> {
    const line = `${JSON.stringify(event)}\n`;
    await this.#run.folder.append(EVENT_LOG, line);
    this.bytes += new TextEncoder().encode(line).length;
    this.#run.onEvent(event);
  }
}

function diverged(step: number, path: string): QdlError {
  return new QdlError(
    "LOSS_NONFINITE",
    `the loss or gradient was not finite in ${NONFINITE_LIMIT} steps in a row (the last is step ${step}), expected finite numbers`,
    {
      hint: `Lower --lr, check the data for the samples of these steps, or resume from the last good checkpoint in ${path}.`,
      details: { step, path },
    },
  );
}
