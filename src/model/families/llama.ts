// The Llama block: norm, grouped-query attention with rotary embedding, residual; norm, SwiGLU feed-forward, residual.
// (arXiv 2302.13971; GQA arXiv 2305.13245.) Training and decoding differ only in how attention reads its keys.

import type { RankRange } from "../../ops/rank-range.ts";
import type { AdapterParameters, LinearAdapter } from "../adapter-parameters.ts";
import type { FrozenLinear, FrozenModel, LinearName } from "../frozen-model.ts";
import { linearShapes } from "../frozen-model.ts";
import { type Call, call, Runtime, Value } from "../graph.ts";

/** Attention over rotated q, rotated k and v of one layer: emits its calls and returns the output [N, H·D]. */
export type AttentionStrategy = (layer: number, q: Value, k: Value, v: Value, emit: (entry: Call) => void) => Value;

export interface BlockInput {
  readonly model: FrozenModel;
  readonly adapter: AdapterParameters;
  readonly layer: number;
  /** Residual stream, [N, C]. */
  readonly x: Value;
  /** cos and sin of the positions' angles, f32 [N, D]. */
  readonly cosSin: Value;
  readonly attention: AttentionStrategy;
  /** null: none. */
  readonly dropout: Dropout | null;
}

/** Dropout on the input of every adapter, each with a mask of its own; the frozen base reads the whole input. */
export interface Dropout {
  readonly p: number;
  readonly seed: number;
  /** i32 [N, 2]: sample and position of each row. */
  readonly rows: Value;
}

export interface Block {
  readonly calls: readonly Call[];
  readonly output: Value;
  /** Values that cost little to compute again (norms, gating, dropout): the first to be dropped when memory is short. */
  readonly cheap: readonly Value[];
}

/** Rank and scale of each row range; given when the list runs. */
/** Optimizer step, for the masks of dropout. */
export const STEP = new Runtime<number>("step");

export const RANGES = new Runtime<readonly RankRange[]>("ranges");

export function llamaBlock({ model, adapter, layer, x, cosSin, attention, dropout }: BlockInput): Block {
  const { config, computeDtype } = model;
  const frozen = model.layers[layer]!;
  const shapes = linearShapes(config);
  const calls: Call[] = [];
  const emit = (entry: Call): void => void calls.push(entry);
  const value = (name: string, cols: number): Value => new Value(`layer${layer}.${name}`, x.rows, cols, computeDtype);

  const norm = (input: Value, weight: typeof frozen.attentionNorm, name: string): Value => {
    const y = value(name, config.hidden);
    const rstd = new Value(`layer${layer}.${name}.rstd`, x.rows, 1, "f32");
    emit(call("rmsNorm", { x: input, weight, y, rstd, eps: config.normEps }));
    return y;
  };

  const linearGroup = (
    input: Value,
    names: readonly LinearName[],
    weights: readonly FrozenLinear[],
    adapters: readonly (LinearAdapter | null)[],
    suffix = "",
  ): Value[] => {
    const y = names.map((name) => value(`${name}${suffix}`, shapes[name].out));
    emit(
      call("adaptedLinears", {
        x: input,
        weights: weights.map(({ weight }) => weight),
        biases: weights.map(({ bias }) => bias),
        a: adapters.map((pair) => pair?.a ?? null),
        b: adapters.map((pair) => pair?.b ?? null),
        t: adapters.map((pair, i) => (pair ? value(`${names[i]}.t`, adapter.rankMax) : null)),
        y,
        ranges: RANGES,
      }),
    );
    return y;
  };

  const linears = (input: Value, names: readonly LinearName[]): Value[] => {
    const weights = names.map((name) => frozen.linears[name]);
    const adapters = names.map((name) => adapter.linear(layer, name));
    if (!dropout) return linearGroup(input, names, weights, adapters);
    const base = linearGroup(
      input,
      names,
      weights,
      names.map(() => null),
      ".base",
    );
    return names.map((name, i) => (adapters[i] ? sum(base[i]!, dropped(input, name, adapters[i]), name) : base[i]!));
  };

  const views: Value[] = [];
  /** The adapter of one linear on its own dropped-out view of the input. */
  const dropped = (input: Value, name: LinearName, pair: LinearAdapter): Value => {
    const { p, seed, rows } = dropout!;
    const view = value(`${name}.dropped`, input.cols);
    views.push(view);
    emit(call("dropout", { x: input, rows, y: view, p, seed, stream: `dropout/layers.${layer}.${name}`, step: STEP }));
    const { in: cols, out } = shapes[name];
    const alone: FrozenLinear = { weight: { format: "zero", rows: out, cols }, bias: null };
    return linearGroup(view, [name], [alone], [pair], ".adapter")[0]!;
  };

  const rotate = (input: Value, name: string): Value => {
    const y = value(name, input.cols);
    emit(call("rope", { x: input, cosSin, y, direction: "forward" }));
    return y;
  };

  const sum = (a: Value, b: Value, name: string): Value => {
    const y = value(name, a.cols);
    emit(call("add", { a, b, y }));
    return y;
  };

  const h = norm(x, frozen.attentionNorm, "attentionNorm");
  const [q, k, v] = linears(h, ["q_proj", "k_proj", "v_proj"]) as [Value, Value, Value];
  const o = attention(layer, rotate(q, "q"), rotate(k, "k"), v, emit);
  const [attended] = linears(o, ["o_proj"]) as [Value];
  const middle = sum(x, attended, "middle");
  const h2 = norm(middle, frozen.feedForwardNorm, "feedForwardNorm");
  const [gate, up] = linears(h2, ["gate_proj", "up_proj"]) as [Value, Value];
  const gated = value("gated", config.intermediate);
  emit(call("swiglu", { gate, up, y: gated }));
  const [down] = linears(gated, ["down_proj"]) as [Value];
  return { calls, output: sum(middle, down, "output"), cheap: [h, h2, gated, ...views] };
}
