// bench train: training steps of a true model shape, as tokens per second, as useful work, and as a share of what products
// reach on this device in the same run.

import { scaleAt } from "../adapter/config.ts";
import type { OptimizerState } from "../adapter/moments.ts";
import type { Adapter } from "../adapter/parameters.ts";
import { drawRank } from "../adapter/rank-draw.ts";
import { uniformRange } from "../model/loss-program.ts";
import { countLevels } from "../model/memory-plan.ts";
import type { ShapeName } from "../model/named-shapes.ts";
import type { KeepLevel } from "../model/steps.ts";
import { trainingFlops } from "../model/useful-flops.ts";
import { randomStream } from "../random/philox.ts";
import { RowWindowedAdamW } from "../train/optimizer.ts";
import { TrainingSession } from "../train/session.ts";
import {
  type BenchSettings,
  type CheckedBench,
  checkBench,
  fullBatch,
  needPeak,
  randomModel,
} from "./bench-settings.ts";
import { timeSteps } from "./bench-timing.ts";
import { hostBytes, peakResidentBytes } from "./host-memory.ts";
import { openDevice } from "./open-device.ts";
import { resolveTrainConfig, type TrainSettings } from "./train-options.ts";

export interface TrainBench {
  /** Of the median step on the CPU; of all steps' wall time on a GPU, whose clock sinks under load. */
  readonly tokensPerSecond: number;
  /** Median. */
  readonly stepMs: number;
  /** Seconds of the first step of each rank bucket: kernels compiled, algorithms timed, lists bound. */
  readonly firstUseSeconds: number;
  readonly steps: number;
  readonly usefulTflops: number;
  readonly peakTflops: number;
  readonly share: number;
  /**
   * The most memory taken, and what `estimate` would have said. On the CPU: resident memory of this process, and the plan
   * with Node and what it grows by. On a GPU: its memory as the driver reports it, context and workspaces included.
   */
  readonly peakBytes: number;
  readonly estimatedPeakBytes: number;
  /** Largest resident memory of this process. */
  readonly hostPeakBytes: number;
  /** null: drawn for every step. */
  readonly rank: number | null;
  readonly rankMax: number;
  readonly batch: number;
  readonly seq: number;
  readonly optimizerState: OptimizerState;
  /** Activations that wait in the host's memory. */
  readonly offloadedBytes: number;
  /** Layers by what they keep for the backward pass. */
  readonly layers: Readonly<Record<KeepLevel, number>>;
  readonly shape: ShapeName;
  readonly backend: string;
  readonly device: string;
}

/** Ranks are drawn in buckets of the tensor cores' granule: one step of each before the clock starts. */
const RANK_BUCKET = 8;
/** Steps of a measurement with drawn ranks, at least. */
const LEAST_DRAWN_STEPS = 128;

/** Training steps on full sequences, every token supervised; clipping and optimizer included. Throws CONFIG_INVALID, MEMORY_EXCEEDED. */
export async function benchTrain(options: BenchSettings = {}): Promise<TrainBench> {
  const settings = checkBench(options);
  await using backend = await openDevice(settings);
  needPeak(backend);
  const peak = backend.measurePeak!(settings.compute === "auto" ? backend.computeDtype : settings.compute);
  // As an estimate would have it: asked before anything is there.
  const { unified, overheadBytes } = backend.memory();
  const beside = unified ? hostBytes() : overheadBytes;
  const model = randomModel(backend, settings);
  try {
    const config = resolveTrainConfig(trainSettings(settings), model.config, 1);
    const rows = settings.batch * settings.seq;
    const shape = { N: rows, S: settings.batch, Q: 0 };
    using session = new TrainingSession(backend, model, config, { training: shape, scoring: { N: 1, S: 1, Q: 0 } });
    fillAdapter(session.adapter);
    using optimizer = new RowWindowedAdamW(backend, session.adapter, config.optimizer);
    const batch = fullBatch(settings.batch, settings.seq, model.config.vocabulary);
    const ranges = (rank: number) => uniformRange(batch, rank, scaleAt(config.adapter, rank));
    const prepare = async (rank: number): Promise<void> => session.learner.prepare(batch, ranges(rank));
    // As training does it: the next step is made ready while the device is at this one.
    const step = async (rank: number, next: number): Promise<void> => {
      optimizer.zeroGradients();
      const losses = session.learner.run(batch, ranges(rank), 1 / batch.supervised);
      const update = optimizer.prepare({ from: 0, to: rank }, 1e-4);
      await Promise.all([losses, prepare(next)]);
      await update();
    };
    const rankOf = (index: number): number => (settings.drawRanks ? drawRank(config.adapter, 1, index) : settings.rank);
    const firstUseSeconds = await firstUse(settings, step);
    const leastSteps = settings.drawRanks ? LEAST_DRAWN_STEPS : 3;
    const warmUp = settings.seconds / (unified ? 4 : 2);
    const times = await timeSteps((index) => step(rankOf(index), rankOf(index + 1)), {
      warmUp,
      seconds: settings.seconds,
      leastSteps,
    });
    const seconds = unified ? times.median : times.mean;
    const lengths = Array.from({ length: settings.batch }, () => settings.seq);
    const flops = mean(
      Array.from({ length: times.steps }, (_, i) =>
        trainingFlops(model.config, { rank: rankOf(i), targets: config.adapter.targets, lengths }),
      ),
    );
    const { totalBytes, pagedBytes, offloadedBytes, optimizerState, plan } = session.estimate;
    return {
      tokensPerSecond: rows / seconds,
      stepMs: 1000 * times.median,
      firstUseSeconds,
      steps: times.steps,
      usefulTflops: flops / seconds / 1e12,
      peakTflops: peak / 1e12,
      share: flops / seconds / peak,
      // Nothing is released before the end, so what a GPU holds now is the most.
      peakBytes: backend.memory().usedBytes ?? peakResidentBytes(),
      estimatedPeakBytes: beside + totalBytes + (unified ? pagedBytes : 0),
      hostPeakBytes: peakResidentBytes(),
      rank: settings.drawRanks ? null : settings.rank,
      rankMax: settings.rankMax,
      batch: settings.batch,
      seq: settings.seq,
      optimizerState,
      offloadedBytes,
      layers: countLevels(plan.levels),
      shape: settings.shape,
      backend: backend.name,
      device: backend.description,
    };
  } finally {
    model.dispose();
  }
}

/** Small random values, repeated: drawing hundreds of millions anew would take longer than the steps. */
function fillAdapter(adapter: Adapter): void {
  const stream = randomStream(1, "bench adapter");
  const pattern = Float32Array.from({ length: 1 << 18 }, (_, i) => 0.01 * stream.normal(i));
  for (const tensor of adapter.tensors) {
    const values = new Float32Array(tensor.master.rows * tensor.cols);
    for (let at = 0; at < values.length; at += pattern.length)
      values.set(pattern.subarray(0, Math.min(pattern.length, values.length - at)), at);
    adapter.setWeights(tensor, values);
  }
}

/** One step of every bucket of ranks that will be used; returns their seconds together. */
async function firstUse(
  { drawRanks, rank, rankMax }: CheckedBench,
  step: (rank: number, next: number) => Promise<void>,
): Promise<number> {
  const buckets = Math.ceil(rankMax / RANK_BUCKET);
  const ranks = drawRanks
    ? Array.from({ length: buckets }, (_, i) => Math.min(rankMax, (i + 1) * RANK_BUCKET))
    : [rank];
  const began = performance.now();
  for (const each of ranks) await step(each, each);
  return (performance.now() - began) / 1000;
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

const trainSettings = ({
  rankMax,
  batch,
  seq,
  memory,
  optimizerState,
  offloadActivations,
  drawRanks,
}: CheckedBench): TrainSettings => ({
  rankMax,
  // Every rank, not only the powers of two: the hardest case for whatever is kept per rank.
  ...(drawRanks && { ranks: Array.from({ length: rankMax }, (_, i) => i + 1) }),
  batch,
  seq,
  optimizerState,
  offloadActivations,
  ...(memory === undefined ? {} : { memory }),
});
