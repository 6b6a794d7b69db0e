// bench generate: decoding and prefill of a true model shape, as bytes per second and as a share of a plain copy in the same run.

import type { AdapterConfig } from "../adapter/config.ts";
import { initialWeights } from "../adapter/initial-weights.ts";
import { Adapter } from "../adapter/parameters.ts";
import type { Backend } from "../backends/backend.ts";
import { linearOf } from "../model/config.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import type { ShapeName } from "../model/named-shapes.ts";
import { settle } from "../quant/staging.ts";
import { Engine } from "../serve/engine.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";
import { type BenchSettings, checkBench, fullBatch, randomModel } from "./bench-settings.ts";
import { medianSeconds, medianSecondsInTurn } from "./bench-timing.ts";
import { openDevice } from "./open-device.ts";
import { resolveTrainConfig } from "./train-options.ts";

export interface GenerateBench {
  readonly tokensPerSecond: number;
  readonly prefillTokensPerSecond: number;
  /** Bytes that a token must read: weights and scales of the blocks, head, keys and values. */
  readonly bytesPerToken: number;
  readonly gbPerSecond: number;
  /** Bytes read and written by a large copy, in turn with the decoding. */
  readonly copyGbPerSecond: number;
  readonly share: number;
  /** Time of a step that continues the prompt at seven ranks at once, per time of a step at one, in turn with it: R/64, R/32, …, R, rounded up. */
  readonly sevenRanksCost: number;
  readonly rank: number;
  readonly shape: ShapeName;
  readonly backend: string;
  readonly device: string;
}

/** Tokens decoded after the prompt before the sequence starts over. */
const DECODED = 128;

/** Decoding of one sequence after a prompt of `seq` tokens. Throws CONFIG_INVALID, MEMORY_EXCEEDED. */
export async function benchGenerate(options: BenchSettings = {}): Promise<GenerateBench> {
  const settings = checkBench(options);
  await using backend = await openDevice(settings);
  const model = randomModel(backend, settings);
  const copied = backend.alloc(2 * COPY_BYTES, "copy");
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
    const decode = async (count: number): Promise<void> => {
      for (let sequence = 0; sequence < count; sequence++)
        if (engine.length(sequence) === maxLength) engine.reset(sequence, settings.seq);
      await extend(Int32Array.of(7), count);
    };
    const prefill = await medianSeconds(async () => {
      engine.reset(0);
      await extend(prompt, 1);
    }, settings.seconds / 4);
    for (let sequence = 0; sequence < ranks.length; sequence++) engine.reset(sequence);
    await extend(prompt, ranks.length);
    const [one, seven, copy] = await medianSecondsInTurn(
      [
        { work: () => decode(1), times: DECODED },
        { work: () => decode(ranks.length), times: DECODED },
        { work: () => copyHalves(backend, copied), times: 4 },
      ],
      settings.seconds,
    );
    const copyGbPerSecond = (2 * COPY_BYTES * COPIES) / copy! / 1e9;
    const bytesPerToken = decodeBytes(model, config, settings.rank, settings.seq + DECODED / 2);
    const gbPerSecond = bytesPerToken / one! / 1e9;
    return {
      tokensPerSecond: 1 / one!,
      prefillTokensPerSecond: settings.seq / prefill,
      bytesPerToken,
      gbPerSecond,
      copyGbPerSecond,
      share: gbPerSecond / copyGbPerSecond,
      sevenRanksCost: seven! / one!,
      rank: settings.rank,
      shape: settings.shape,
      backend: backend.name,
      device: backend.description,
    };
  } finally {
    copied.dispose();
    model.dispose();
  }
}

/** A half of the buffer that is copied: far larger than caches. */
const COPY_BYTES = 256 << 20;
/** Copies between two waits for the device. */
const COPIES = 4;

/** Copies the first half of a buffer to the second by the device's own copy. */
async function copyHalves(backend: Backend, buffer: DeviceBuffer): Promise<void> {
  const half = (index: number) => matrix(buffer, "f32", COPY_BYTES / 4096, 1024, index * COPY_BYTES);
  for (let i = 0; i < COPIES; i++) backend.run("cast", { x: half(0), y: half(1) });
  await settle(backend, buffer);
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
