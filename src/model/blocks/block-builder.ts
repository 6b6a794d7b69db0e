// What the parts of a block share while its list of calls is written down.

import type { AdapterParameters } from "../adapter-parameters.ts";
import type { NormName } from "../config.ts";
import type { FrozenLayer, FrozenModel, FrozenNorm } from "../frozen-model.ts";
import { type Call, call, Value } from "../graph.ts";

/** Attention over rotated q, rotated k and v of one layer: emits its calls and returns the output [N, H·D]. */
export type AttentionStrategy = (layer: number, q: Value, k: Value, v: Value, emit: (entry: Call) => void) => Value;

export interface BlockInput {
  readonly model: FrozenModel;
  readonly adapter: AdapterParameters;
  readonly layer: number;
  /** Residual stream, [N, C]. */
  readonly x: Value;
  /** cos and sin of the positions' angles, one per rotary embedding of the model: f32 [N, D]. */
  readonly cosSin: readonly Value[];
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

export class BlockBuilder {
  readonly input: BlockInput;
  readonly frozen: FrozenLayer;
  readonly calls: Call[] = [];
  readonly cheap: Value[] = [];

  constructor(input: BlockInput) {
    this.input = input;
    this.frozen = input.model.layers[input.layer]!;
  }

  readonly emit = (entry: Call): void => void this.calls.push(entry);

  /** A new value of this layer, as many rows as the residual stream. */
  value(name: string, cols: number): Value {
    const { layer, x, model } = this.input;
    return new Value(`layer${layer}.${name}`, x.rows, cols, model.computeDtype);
  }

  /** A value that costs little to compute again: among the first to be dropped when memory is short. */
  cheapValue(name: string, cols: number): Value {
    const value = this.value(name, cols);
    this.cheap.push(value);
    return value;
  }

  /** The norm of that name. */
  norm(x: Value, name: NormName): Value {
    const y = this.cheapValue(`${name}Norm`, x.cols);
    this.emit(normCall(this.input.model, x, this.frozen.norms[name]!, y));
    return y;
  }

  /** The norm of that name where the block has one. */
  normIfAny(x: Value, name: NormName): Value {
    return this.frozen.norms[name] ? this.norm(x, name) : x;
  }

  sum(a: Value, b: Value, name: string): Value {
    const y = this.value(name, a.cols);
    this.emit(call("add", { a, b, y }));
    return y;
  }
}

/** The model's kind of norm: y = norm(x). */
export function normCall({ config }: FrozenModel, x: Value, { weight, bias }: FrozenNorm, y: Value): Call {
  const { kind, eps } = config.norm;
  const statistic = (name: string) => new Value(`${y.name}.${name}`, x.rows, x.cols / weight.cols, "f32");
  const rstd = statistic("rstd");
  if (kind === "rms") return call("rmsNorm", { x, weight, y, rstd, eps });
  return call("layerNorm", { x, weight, bias, y, mean: statistic("mean"), rstd, eps });
}
