// bench: how fast a step of a true model shape is on this device, as useful work and as a share of what a loop in
// registers, or a plain copy, reaches in the same run. Weights are random: speed does not depend on them.

import { type AdapterConfig, scaleAt } from "../adapter/config.ts";
import { initialWeights } from "../adapter/initial-weights.ts";
import { Adapter } from "../adapter/parameters.ts";
import type { Backend } from "../backends/backend.ts";
import type { Batch, Sample } from "../data/batch.ts";
import { layOut } from "../data/layout.ts";
import { linearOf } from "../model/config.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import { uniformRange } from "../model/loss-program.ts";
import { namedShape, SHAPE_NAMES, type ShapeName } from "../model/named-shapes.ts";
import { trainingFlops } from "../model/useful-flops.ts";
import type { BaseFormat } from "../ops/frozen-weight.ts";
import { randomBase } from "../quant/random-base.ts";
import { randomStream } from "../random/philox.ts";
import { Engine } from "../serve/engine.ts";
import { matrix } from "../tensor/tensor.ts";
import { RowWindowedAdamW } from "../train/optimizer.ts";
import { TrainingSession } from "../train/session.ts";
import { type OpBench, benchOps as timeOps } from "./bench-ops.ts";
import { medianSeconds } from "./bench-timing.ts";
import { hostBytes, peakResidentBytes } from "./host-memory.ts";
import { type DeviceSettings, openDevice } from "./open-device.ts";
import { type Problem, throwProblems } from "./problems.ts";
import { resolveTrainConfig, type TrainSettings } from "./train-options.ts";

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
  /** Bytes that the run may take on the device. */
  readonly memory?: number;
  /** Seconds of measuring, after a quarter of it to warm up. Default: 10. */
  readonly seconds?: number;
}

export interface TrainBench {
  readonly tokensPerSecond: number;
  /** Median. */
  readonly stepMs: number;
  readonly usefulTflops: number;
  readonly peakTflops: number;
  readonly share: number;
  /** Largest resident memory of this process, and what `estimate` would have said: the plan, and Node with what it grows by. */
  readonly peakBytes: number;
  readonly estimatedPeakBytes: number;
  readonly rank: number;
  readonly batch: number;
  readonly seq: number;
  readonly shape: ShapeName;
  readonly backend: string;
  readonly device: string;
}

export interface GenerateBench {
  readonly tokensPerSecond: number;
  readonly prefillTokensPerSecond: number;
  /** Bytes that a token must read: weights and scales of the blocks, head, keys and values. */
  readonly bytesPerToken: number;
  readonly gbPerSecond: number;
  /** Bytes read and written by a large copy, in the same run. */
  readonly copyGbPerSecond: number;
  readonly share: number;
  /** Time of a step that continues the prompt at seven ranks at once, per time of a step at one: R/64, R/32, …, R, rounded up. */
  readonly sevenRanksCost: number;
  readonly rank: number;
  readonly shape: ShapeName;
  readonly backend: string;
  readonly device: string;
}

const DEFAULTS = {
  shape: "tiny",
  rankMax: 64,
  batch: 4,
  seq: 256,
  baseFormat: "nf4",
  compute: "auto",
  seconds: 10,
} as const;

/** Training steps on full sequences, every token supervised; clipping and optimizer included. Throws CONFIG_INVALID, MEMORY_EXCEEDED. */
export async function benchTrain(options: BenchSettings = {}): Promise<TrainBench> {
  const settings = checked(options);
  await using backend = await openDevice(settings);
  needPeak(backend);
  const host = hostBytes();
  const model = randomModel(backend, settings);
  try {
    const config = resolveTrainConfig(trainSettings(settings), model.config, 1);
    const rows = settings.batch * settings.seq;
    const shape = { N: rows, S: settings.batch, Q: 0 };
    using session = new TrainingSession(backend, model, config, { training: shape, scoring: { N: 1, S: 1, Q: 0 } });
    session.adapter.load(initialWeights(model.config, config.adapter, 1));
    using optimizer = new RowWindowedAdamW(backend, session.adapter, config.optimizer);
    const batch = fullBatch(settings.batch, settings.seq, model.config.vocabulary);
    const window = { from: 0, to: settings.rank };
    const ranges = uniformRange(batch, settings.rank, scaleAt(config.adapter, settings.rank));
    const step = async (): Promise<void> => {
      optimizer.zeroGradients();
      await session.learner.run(batch, ranges, 1 / batch.supervised);
      await optimizer.step(window, 1e-4);
    };
    const peak = backend.measurePeak!(model.computeDtype);
    const seconds = await medianSeconds(step, settings.seconds);
    const lengths = Array.from({ length: settings.batch }, () => settings.seq);
    const flops = trainingFlops(model.config, { rank: settings.rank, targets: config.adapter.targets, lengths });
    return {
      tokensPerSecond: rows / seconds,
      stepMs: 1000 * seconds,
      usefulTflops: flops / seconds / 1e12,
      peakTflops: peak / 1e12,
      share: flops / seconds / peak,
      peakBytes: peakResidentBytes(),
      estimatedPeakBytes: host + session.estimate.totalBytes + session.estimate.pagedBytes,
      rank: settings.rank,
      batch: settings.batch,
      seq: settings.seq,
      shape: settings.shape,
      backend: backend.name,
      device: backend.description,
    };
  } finally {
    model.dispose();
  }
}

/** Tokens decoded after the prompt before the sequence starts over. */
const DECODED = 128;

/** Decoding of one sequence after a prompt of `seq` tokens. Throws CONFIG_INVALID, MEMORY_EXCEEDED. */
export async function benchGenerate(options: BenchSettings = {}): Promise<GenerateBench> {
  const settings = checked(options);
  await using backend = await openDevice(settings);
  const copyGbPerSecond = await copyBandwidth(backend);
  const model = randomModel(backend, settings);
  try {
    const { adapter: config } = resolveTrainConfig({ rankMax: settings.rankMax }, model.config, 1);
    using adapter = new Adapter(backend, model.config, config, model.computeDtype, null);
    adapter.load(initialWeights(model.config, config, 1));
    const ranks = [1, 2, 4, 8, 16, 32, 64].map((parts) => Math.ceil(settings.rank / parts));
    const maxLength = settings.seq + DECODED;
    using engine = new Engine({ backend, model, adapter, sequences: ranks.length, maxLength, maxRows: 512 });
    const prompt = fullBatch(1, settings.seq, model.config.vocabulary).tokens;
    /** Appends the same tokens to the first `count` sequences, the first at the full rank. */
    const extend = async (tokens: Int32Array, count: number): Promise<void> => {
      await engine.extend(ranks.slice(0, count).map((rank, sequence) => ({ sequence, tokens, rank })));
    };
    const decodeSeconds = (count: number, seconds: number): Promise<number> =>
      medianSeconds(async () => {
        for (let sequence = 0; sequence < count; sequence++)
          if (engine.length(sequence) === maxLength) engine.reset(sequence, settings.seq);
        await extend(Int32Array.of(7), count);
      }, seconds);
    const prefill = await medianSeconds(async () => {
      engine.reset(0);
      await extend(prompt, 1);
    }, settings.seconds / 4);
    const decode = await decodeSeconds(1, settings.seconds);
    for (let sequence = 0; sequence < ranks.length; sequence++) engine.reset(sequence);
    await extend(prompt, ranks.length);
    const sevenRanks = await decodeSeconds(ranks.length, settings.seconds / 4);
    const bytesPerToken = decodeBytes(model, config, settings.rank, settings.seq + DECODED / 2);
    const gbPerSecond = bytesPerToken / decode / 1e9;
    return {
      tokensPerSecond: 1 / decode,
      prefillTokensPerSecond: settings.seq / prefill,
      bytesPerToken,
      gbPerSecond,
      copyGbPerSecond,
      share: gbPerSecond / copyGbPerSecond,
      sevenRanksCost: sevenRanks / decode,
      rank: settings.rank,
      shape: settings.shape,
      backend: backend.name,
      device: backend.description,
    };
  } finally {
    model.dispose();
  }
}

/** NF4 products at 512 tokens (`batch`·`seq` if given), forward and backward. Throws CONFIG_INVALID. */
export async function benchOps(options: BenchSettings = {}): Promise<OpBench[]> {
  const settings = checked({ batch: 1, seq: 512, rankMax: 64, rank: 0, ...options });
  await using backend = await openDevice(settings);
  needPeak(backend);
  const { batch, seq, rank, rankMax, compute, seconds } = settings;
  const computeDtype = compute === "auto" ? backend.computeDtype : compute;
  return await timeOps(backend, { tokens: batch * seq, rank, rankMax, computeDtype, seconds: seconds / 10 });
}

type Checked = Required<Omit<BenchSettings, keyof DeviceSettings | "memory">> &
  DeviceSettings &
  Pick<BenchSettings, "memory">;

function checked(options: BenchSettings): Checked {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const merged = { ...DEFAULTS, ...given } as Omit<Checked, "rank"> & Pick<BenchSettings, "rank">;
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

const trainSettings = ({ rankMax, batch, seq, memory }: Checked): TrainSettings => ({
  rankMax,
  batch,
  seq,
  ...(memory === undefined ? {} : { memory }),
});

function randomModel(backend: Backend, { shape, baseFormat, compute }: Checked): FrozenModel {
  const computeDtype = compute === "auto" ? backend.computeDtype : compute;
  return randomBase(backend, { config: namedShape(shape), format: baseFormat, computeDtype }, 1);
}

/** Sequences of random tokens in which every token predicts one. */
function fullBatch(count: number, seq: number, vocabulary: number): Batch {
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
function needPeak(backend: Backend): void {
  if (!backend.measurePeak)
    throwProblems("bench", [{ key: "backend", got: backend.name, expected: "one whose peak can be measured: cpu" }]);
}

const COPY_BYTES = 256 << 20;

/** GB/s, bytes read and written, of the device's own copy of memory far larger than its caches. */
async function copyBandwidth(backend: Backend): Promise<number> {
  const buffer = backend.alloc(2 * COPY_BYTES, "copy");
  try {
    const half = (index: number) => matrix(buffer, "f32", COPY_BYTES / 4096, 1024, index * COPY_BYTES);
    const seconds = await medianSeconds(async () => backend.run("cast", { x: half(0), y: half(1) }), 1);
    return (2 * COPY_BYTES) / seconds / 1e9;
  } finally {
    buffer.dispose();
  }
}

function decodeBytes(model: FrozenModel, config: AdapterConfig, rank: number, length: number): number {
  const { layers, kvHeads, headDim, vocabulary, hidden } = model.config;
  const compute = model.computeDtype === "bf16" ? 2 : 4;
  const head = vocabulary * hidden * (model.head.dtype === "bf16" ? 2 : 4);
  const table = model.embedding === model.head ? 0 : head;
  const adapter = adapterRowBytes(model, config, compute) * rank;
  return model.bytes - table + adapter + 2 * layers * kvHeads * headDim * length * compute;
}

/** Bytes of one row of every A and B. */
function adapterRowBytes(model: FrozenModel, config: AdapterConfig, compute: number): number {
  const adapted = config.targets.map((name) => linearOf(model.config, name));
  const perLayer = adapted.reduce((sum, linear) => sum + linear.in + linear.out, 0);
  return model.layers.length * perLayer * compute;
}
