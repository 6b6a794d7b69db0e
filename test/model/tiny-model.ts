// A two-layer Llama with seeded random weights on any backend: small enough for the reference, odd enough to catch
// mistakes (kv heads < heads, sizes that are no multiples of 64).

import { type AdapterConfig, defaultRanks } from "../../src/adapter/config.ts";
import { initialWeights } from "../../src/adapter/initial-weights.ts";
import { Adapter } from "../../src/adapter/parameters.ts";
import type { Backend } from "../../src/backends/backend.ts";
import type { Batch } from "../../src/data/batch.ts";
import { type LinearOptions, linearNames, type ModelConfig } from "../../src/model/config.ts";
import type { FrozenLinear, FrozenModel, FrozenNorm } from "../../src/model/frozen-model.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { randomStream } from "../../src/random/philox.ts";
import { BYTES_PER_ELEMENT, type DType, toBf16 } from "../../src/tensor/dtype.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../../src/tensor/tensor.ts";

export const TINY_JSON = {
  architectures: ["LlamaForCausalLM"],
  vocab_size: 53,
  hidden_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 72,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  attention_bias: true,
  bos_token_id: null,
  eos_token_id: 0,
};

export const TINY = parseModelConfig(TINY_JSON);

/** A dense base in f32 or bf16. Dispose it before the backend. */
export function tinyModel(backend: Backend, computeDtype: "f32" | "bf16", config: ModelConfig = TINY): FrozenModel {
  const buffers: DeviceBuffer[] = [];
  let bytes = 0;
  const tensor = (name: string, rows: number, cols: number, deviation: number, mean = 0): Tensor => {
    const stream = randomStream(7, name);
    const values = Float32Array.from({ length: rows * cols }, (_, i) => mean + deviation * stream.normal(i));
    const buffer = backend.alloc(rows * cols * BYTES_PER_ELEMENT[computeDtype], name);
    backend.write(buffer, 0, encode(computeDtype, values));
    buffers.push(buffer);
    bytes += buffer.bytes;
    return matrix(buffer, computeDtype, rows, cols);
  };
  const norm = (name: string): FrozenNorm => ({ weight: tensor(name, 1, config.hidden, 0.1, 1), bias: null });
  const linear = (layer: number, { name, in: K, out: M, bias }: LinearOptions): FrozenLinear => {
    const values = tensor(`${layer}.${name}`, M, K, 1 / Math.sqrt(K));
    return {
      weight: { format: computeDtype, rows: M, cols: K, values },
      bias: bias ? tensor(`${layer}.${name}.bias`, 1, M, 0.1) : null,
    };
  };
  const embedding = tensor("embedding", config.vocabulary, config.hidden, 1);
  return {
    config,
    identity: {
      name: "tiny",
      revision: null,
      family: config.family,
      sha256: "0".repeat(64),
      format: computeDtype,
      blockSize: 64,
      doubleQuant: false,
      templateSha256: null,
    },
    computeDtype,
    embedding,
    positions: null,
    head: config.tiedEmbeddings ? embedding : tensor("head", config.vocabulary, config.hidden, 0.3),
    finalNorm: norm("finalNorm"),
    layers: Array.from({ length: config.layers }, (_, layer) => ({
      norms: { attention: norm(`${layer}.attentionNorm`), feedForward: norm(`${layer}.feedForwardNorm`) },
      linears: Object.fromEntries(config.block.linears.map((options) => [options.name, linear(layer, options)])),
    })),
    bytes,
    dispose: () => {
      for (const buffer of buffers) buffer.dispose();
    },
  };
}

function encode(dtype: DType, values: Float32Array): Uint8Array {
  const array = dtype === "bf16" ? Uint16Array.from(values, toBf16) : values;
  return new Uint8Array(array.buffer);
}

export function adapterConfig(overrides: Partial<AdapterConfig> = {}): AdapterConfig {
  const rankMax = overrides.rankMax ?? 8;
  return {
    rankMax,
    alpha: 4,
    scaleRule: "alpha/b",
    targets: linearNames(TINY),
    mode: "dylora",
    ranks: defaultRanks(rankMax),
    distribution: { kind: "uniform" },
    dropout: 0,
    ...overrides,
  };
}

/** All of them at once. */
export function heldWeights(weights: Iterable<readonly [string, Float32Array]>): Map<string, Float32Array> {
  const held = new Map<string, Float32Array>();
  for (const [name, values] of weights) held.set(name, values.slice());
  return held;
}

/** Weights whose B is random too, so that every gradient is non-zero. */
export function randomWeights(config: AdapterConfig, model: ModelConfig = TINY): Map<string, Float32Array> {
  const weights = heldWeights(initialWeights(model, config, 3));
  for (const [name, values] of weights) {
    if (!name.endsWith(".B")) continue;
    const stream = randomStream(5, name);
    for (let i = 0; i < values.length; i++) values[i] = 0.05 * stream.normal(i);
  }
  return weights;
}

export function randomAdapter(backend: Backend, model: FrozenModel, config: AdapterConfig, training = true): Adapter {
  const adapter = new Adapter(backend, model.config, config, model.computeDtype, training ? "adam32" : null);
  adapter.load(randomWeights(config, model.config));
  return adapter;
}

/** A batch of random segments of the given lengths; every token but each segment's last predicts the next. */
export function randomBatch(lengths: readonly number[], seed = 1, vocabulary = TINY.vocabulary): Batch {
  const stream = randomStream(seed, "batch");
  const rows = lengths.reduce((a, b) => a + b, 0);
  const tokens = Int32Array.from({ length: rows }, (_, i) => stream.below(vocabulary, i));
  const targets = new Int32Array(rows).fill(-1);
  const positions = new Int32Array(rows);
  const starts = new Int32Array(lengths.length + 1);
  let row = 0;
  lengths.forEach((length, segment) => {
    for (let p = 0; p < length; p++, row++) {
      positions[row] = p;
      if (p + 1 < length) targets[row] = tokens[row + 1]!;
    }
    starts[segment + 1] = row;
  });
  return {
    tokens,
    targets,
    positions,
    starts,
    sampleIds: lengths.map((_, i) => i),
    supervised: targets.filter((t) => t >= 0).length,
  };
}
