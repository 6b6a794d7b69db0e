// The lists of the three things a model does: learn from a micro-batch, score one, and decode.

import type { AttentionAttributes } from "../ops/attention-heads.ts";
import { fromBf16, toBf16 } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type AdapterParameters, NO_ADAPTER } from "./adapter-parameters.ts";
import { type Block, buildBlock } from "./blocks/block.ts";
import { type AttentionStrategy, type Dropout, normCall } from "./blocks/block-builder.ts";
import type { ModelConfig } from "./config.ts";
import { differentiate, outputsOf } from "./differentiate.ts";
import type { FrozenModel } from "./frozen-model.ts";
import { type Call, call, type Section, Value } from "./graph.ts";
import { offload } from "./offload.ts";
import { ropeMagnitude } from "./rope-frequencies.ts";

/** What the host writes before each micro-batch. */
export interface BatchInputs {
  /** i32 [N] */
  readonly tokens: Value;
  /** i32 [N] */
  readonly positions: Value;
  /** i32 [S+1] */
  readonly starts: Value;
  /** i32 [N], −1 where nothing is predicted */
  readonly targets: Value;
  /** f32 [N]: factor of each token's loss in the gradient */
  readonly tokenWeights: Value;
  /** f32 [1, D/2] for each rotary embedding of the model, written once */
  readonly frequencies: readonly Value[];
  /** i32 [N, 2]: sample and position of each row; null without dropout */
  readonly rows: Value | null;
}

/** Dropout on the adapters' inputs. */
export interface DropoutSettings {
  /** Probability of dropping an element. */
  readonly p: number;
  readonly seed: number;
}

export interface LossList {
  readonly calls: readonly Call[];
  readonly inputs: BatchInputs;
  /** f32 [N]: cross-entropy of each row, 0 where nothing is predicted */
  readonly loss: Value;
}

/**
 * Where a layer's backward gets what it reads of the forward: all of it is kept on the device; what costs little is computed
 * again, and the rest kept, or kept in the host's memory; all is computed again from the layer's input, which is kept on the
 * device or in the host's memory. The bits are the same.
 */
export const KEEP_LEVELS = ["keep", "recompute-cheap", "offload", "recompute-layer", "offload-input"] as const;
export type KeepLevel = (typeof KEEP_LEVELS)[number];

/**
 * Forward, loss and backward of one micro-batch. Gradients accumulate in the adapter's own gradient tensors.
 * @param rowBytesPerLayer what the bus to the host's memory carries while a layer's forward runs
 */
export function trainingList(
  model: FrozenModel,
  adapter: AdapterParameters,
  levels: readonly KeepLevel[],
  settings: DropoutSettings | null = null,
  rowBytesPerLayer = Number.POSITIVE_INFINITY,
): LossList {
  const inputs = batchInputs(model, settings !== null);
  const dropout = settings && { ...settings, rows: inputs.rows! };
  const attention = segmentAttention(model, inputs.starts);
  const { sections, blocks, last } = forwardSections(model, adapter, inputs, attention, dropout);
  const head = lossSection(model, last, inputs, true);
  const recompute = new Set(blocks.flatMap((block, layer) => dropped(block, levels[layer] ?? "keep")));
  const all = [...sections, head.section];
  const backward = differentiate({ sections: all, seeds: new Map([[head.features, head.gradient!]]), recompute });
  // The section of layer i has index i + 1.
  const waiting = new Map(blocks.map((block, layer) => [layer + 1, offloadable(block, levels[layer] ?? "keep")]));
  const calls = offload({ forward: all, backward, waiting, rowBytesPerLayer });
  return { calls, inputs, loss: head.loss };
}

/** Forward and loss of one micro-batch, nothing saved. */
export function scoringList(model: FrozenModel, adapter: AdapterParameters = NO_ADAPTER): LossList {
  const inputs = batchInputs(model, false);
  const { sections, last } = forwardSections(model, adapter, inputs, segmentAttention(model, inputs.starts));
  const head = lossSection(model, last, inputs, false);
  return { calls: [...sections, head.section].flatMap((section) => section.calls), inputs, loss: head.loss };
}

/** Keys and values of one layer: [T, G·D] each. */
export interface LayerCache {
  readonly keys: Tensor;
  readonly values: Tensor;
}

export interface DecodingList {
  readonly calls: readonly Call[];
  readonly inputs: {
    readonly tokens: Value;
    readonly positions: Value;
    readonly frequencies: readonly Value[];
    /** i32 [N]: cache row of each token */
    readonly cacheRows: Value;
    /** i32 [N]: first cache row of the token's sequence */
    readonly slots: Value;
    /** i32 [N]: keys that the token sees, itself included */
    readonly lengths: Value;
    /** i32 [Q]: rows whose logits are wanted */
    readonly picks: Value;
  };
  /** f32 [Q, V] */
  readonly logits: Value;
}

/** Any mixture of prompt and decode tokens of several sequences; logits of the picked rows. */
export function decodingList(
  model: FrozenModel,
  adapter: AdapterParameters,
  caches: readonly LayerCache[],
): DecodingList {
  const { config, computeDtype } = model;
  const integers = (name: string, rows: "N" | "Q" = "N"): Value => new Value(name, rows, 1, "i32");
  const inputs = {
    tokens: integers("tokens"),
    positions: integers("positions"),
    frequencies: frequencyValues(config),
    cacheRows: integers("cacheRows"),
    slots: integers("slots"),
    lengths: integers("lengths"),
    picks: integers("picks", "Q"),
  };
  const cached: AttentionStrategy = (layer, q, k, v, emit) => {
    const { keys, values } = caches[layer]!;
    const o = q.like(`layer${layer}.o`);
    emit(call("kvAppend", { x: k, rows: inputs.cacheRows, cache: keys }));
    emit(call("kvAppend", { x: v, rows: inputs.cacheRows, cache: values }));
    const { slots, lengths } = inputs;
    emit(
      call("attentionCached", { q, kCache: keys, vCache: values, slots, lengths, o, ...attentionShape(model, layer) }),
    );
    return o;
  };
  const { sections, last } = forwardSections(model, adapter, inputs, cached);
  const picked = new Value("picked", "Q", config.hidden, computeDtype);
  const features = picked.like("features");
  const logits = new Value("logits", "Q", config.vocabulary, "f32");
  const calls = [
    ...sections.flatMap((section) => section.calls),
    call("embed", { table: last, tokens: inputs.picks, y: picked, scale: 1 }),
    normCall(model, picked, model.finalNorm, features),
    call("matmul", { x: features, weight: model.head, y: logits }),
  ];
  return { calls, inputs, logits };
}

function batchInputs(model: FrozenModel, dropout: boolean): BatchInputs {
  return {
    tokens: new Value("tokens", "N", 1, "i32"),
    positions: new Value("positions", "N", 1, "i32"),
    starts: new Value("starts", "S+1", 1, "i32"),
    targets: new Value("targets", "N", 1, "i32"),
    tokenWeights: new Value("tokenWeights", "N", 1, "f32"),
    frequencies: frequencyValues(model.config),
    rows: dropout ? new Value("rows", "N", 2, "i32") : null,
  };
}

function forwardSections(
  model: FrozenModel,
  adapter: AdapterParameters,
  inputs: Pick<BatchInputs, "tokens" | "positions" | "frequencies">,
  attention: AttentionStrategy,
  dropout: Dropout | null = null,
): { sections: Section[]; blocks: Block[]; last: Value } {
  const { config } = model;
  const { positions } = inputs;
  const cosSin = inputs.frequencies.map(({ cols }, i) => new Value(`cosSin${i}`, "N", 2 * cols, "f32"));
  const embedding = embeddingCalls(model, inputs);
  const tables = config.ropes.map((rope, i) => {
    const frequencies = inputs.frequencies[i]!;
    return call("ropeTable", { positions, frequencies, cosSin: cosSin[i]!, magnitude: ropeMagnitude(rope) });
  });
  const first: Section = { name: "embedding", calls: [...embedding.calls, ...tables] };
  const blocks: Block[] = [];
  let x = embedding.output;
  for (let layer = 0; layer < config.layers; layer++) {
    const block = buildBlock({ model, adapter, layer, x, cosSin, attention, dropout });
    blocks.push(block);
    x = block.output;
  }
  const layers = blocks.map(({ calls }, layer) => ({ name: `layer${layer}`, calls }));
  return { sections: [first, ...layers], blocks, last: x };
}

/** The residual stream before the first block: tokens, and positions where they are learned. */
function embeddingCalls(
  { config, computeDtype, embedding, positions }: FrozenModel,
  inputs: Pick<BatchInputs, "tokens" | "positions">,
): { calls: Call[]; output: Value } {
  const value = (name: string) => new Value(name, "N", config.hidden, computeDtype);
  const embedded = value("embedded");
  // Trained models have seen the factor in the dtype of their weights.
  const scale = computeDtype === "bf16" ? fromBf16(toBf16(config.embeddingScale)) : config.embeddingScale;
  const calls = [call("embed", { table: embedding, tokens: inputs.tokens, y: embedded, scale })];
  if (!positions) return { calls, output: embedded };
  const [placed, output] = [value("placed"), value("embeddedAndPlaced")];
  calls.push(call("embed", { table: positions, tokens: inputs.positions, y: placed, scale: 1 }));
  calls.push(call("add", { a: embedded, b: placed, y: output }));
  return { calls, output };
}

function segmentAttention(model: FrozenModel, starts: Value): AttentionStrategy {
  return (layer, q, k, v, emit) => {
    const o = q.like(`layer${layer}.o`);
    const lse = new Value(`layer${layer}.lse`, "N", model.config.heads, "f32");
    emit(call("attention", { q, k, v, starts, o, lse, ...attentionShape(model, layer) }));
    return o;
  };
}

function attentionShape({ config }: FrozenModel, layer: number): AttentionAttributes {
  const { scale, softCap } = config.block.attention;
  return { headDim: config.headDim, scale, window: config.perLayer[layer]!.window, softCap };
}

function frequencyValues({ ropes }: ModelConfig): Value[] {
  return ropes.map(({ dims }, i) => new Value(`frequencies${i}`, "1", dims / 2, "f32"));
}

function lossSection(model: FrozenModel, last: Value, inputs: BatchInputs, training: boolean) {
  const features = last.like("features");
  const loss = new Value("loss", "N", 1, "f32");
  const gradient = training ? features.like("∂features") : null;
  const { targets, tokenWeights } = inputs;
  const section: Section = {
    name: "loss",
    calls: [
      normCall(model, last, model.finalNorm, features),
      call("linearCrossEntropy", {
        x: features,
        weight: model.head,
        targets,
        tokenWeights,
        loss,
        dx: gradient,
        softCap: model.config.logitSoftCap,
      }),
    ],
  };
  return { section, features, gradient, loss };
}

/** Values of a layer that are not kept for the backward. Its input and output always are. */
function dropped(block: Block, level: KeepLevel): readonly Value[] {
  if (level === "keep") return [];
  if (level === "recompute-cheap" || level === "offload") return block.cheap;
  return block.calls.flatMap(outputsOf).filter((value) => value !== block.output);
}

/** Values that may wait in the host's memory for a layer's backward: for narrow ones a copy costs more than they take. */
function offloadable({ calls, input, output }: Block, level: KeepLevel): readonly Value[] {
  if (level === "offload-input") return [input];
  if (level !== "offload") return [];
  const own = calls.flatMap(outputsOf).filter((value) => value !== output && 2 * value.cols >= input.cols);
  return [input, ...own];
}
