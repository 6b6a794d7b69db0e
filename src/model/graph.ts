// A step as a straight-line list of op calls on named values. There is no tape at run time: the list is built once, its
// backward list follows from the ops' gradient rules (differentiate.ts), and the memory plan gives every value its place
// before the first step (plan.ts).

import type { Placement as Memory } from "../backends/backend.ts";
import type { ArgsOf, OpName } from "../ops/index.ts";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.ts";
import { isTensor, type Tensor } from "../tensor/tensor.ts";

/** How many rows a value has: tokens of the run, bounds of its segments, rows picked for logits, or one. */
export type RowCount = "N" | "S+1" | "Q" | "1";

/** Row counts of one run of a list: tokens, segments, rows picked for logits. */
export interface Shape {
  readonly N: number;
  readonly S: number;
  readonly Q: number;
}

export function rowsOf(value: Value, shape: Shape): number {
  switch (value.rows) {
    case "S+1":
      return shape.S + 1;
    case "1":
      return 1;
    default:
      return shape[value.rows];
  }
}

/** A matrix that a call writes (or the host, for inputs) and later calls read. Has a shape, but no memory of its own. */
export class Value {
  readonly name: string;
  readonly rows: RowCount;
  readonly cols: number;
  readonly dtype: DType;
  /** Where it waits: on the device, where ops read it, or in the host's memory, where only copies do. */
  readonly memory: Memory;

  constructor(name: string, rows: RowCount, cols: number, dtype: DType, memory: Memory = "device") {
    this.name = name;
    this.rows = rows;
    this.cols = cols;
    this.dtype = dtype;
    this.memory = memory;
  }

  /** Another value of the same shape. */
  like(name: string, memory: Memory = "device"): Value {
    return new Value(name, this.rows, this.cols, this.dtype, memory);
  }
}

/** Bytes of one row of a value. */
export const rowBytesOf = ({ cols, dtype }: Value): number => cols * BYTES_PER_ELEMENT[dtype];

/** A trainable tensor: read in the forward, its gradient accumulated in the backward. Lives longer than a step. */
export class Parameter {
  readonly name: string;
  readonly value: Tensor;
  /** f32; null where nothing is trained. */
  readonly gradient: Tensor | null;

  constructor(name: string, value: Tensor, gradient: Tensor | null) {
    this.name = name;
    this.value = value;
    this.gradient = gradient;
  }
}

/** An attribute that is known only when the list runs. */
export class Runtime<T> {
  readonly key: string;
  /** Never read: ties the key to its type. */
  declare readonly type: T;

  constructor(key: string) {
    this.key = key;
  }
}

type Lazy<T> = T extends Tensor
  ? Tensor | Value | Parameter
  : T extends readonly (infer E)[]
    ? readonly Lazy<E>[] | Runtime<T>
    : T | Runtime<T>;

/** An op's arguments before memory is known. */
export type LazyArgs<A> = { readonly [K in keyof A]: Lazy<A[K]> };

export interface Call {
  readonly op: OpName;
  readonly args: Readonly<Record<string, unknown>>;
}

export function call<K extends OpName>(op: K, args: LazyArgs<ArgsOf<K>>): Call {
  return { op, args: args as Readonly<Record<string, unknown>> };
}

/** Calls that are kept or recomputed together: one layer, or what comes before and after the layers. */
export interface Section {
  readonly name: string;
  readonly calls: readonly Call[];
}

/** Replaces every symbol in an argument; tensors, frozen weights and plain attributes pass through. */
export function substitute(
  argument: unknown,
  replace: (symbol: Value | Parameter | Runtime<unknown>) => unknown,
): unknown {
  if (argument instanceof Value || argument instanceof Parameter || argument instanceof Runtime)
    return replace(argument);
  if (Array.isArray(argument)) return argument.map((entry) => substitute(entry, replace));
  return argument;
}

/** The values that an argument names. */
export function valuesIn(argument: unknown): Value[] {
  if (argument instanceof Value) return [argument];
  if (Array.isArray(argument)) return argument.flatMap(valuesIn);
  return [];
}

/** One line of a list for people: `rmsNorm x=layer0.x → y=layer0.h`. */
export function describeCall(entry: Call): string {
  const show = (argument: unknown): string => {
    if (argument instanceof Value || argument instanceof Parameter) return argument.name;
    if (argument instanceof Runtime) return `<${argument.key}>`;
    if (Array.isArray(argument)) return `[${argument.map(show).join(", ")}]`;
    if (isTensor(argument)) return `(${argument.rows}×${argument.cols} ${argument.dtype})`;
    if (typeof argument === "object" && argument !== null && "format" in argument)
      return `(${String(argument.format)})`;
    return String(argument);
  };
  return `${entry.op} ${Object.entries(entry.args)
    .map(([key, value]) => `${key}=${show(value)}`)
    .join(" ")}`;
}
