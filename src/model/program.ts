// A list with memory: binds each call to views of the arena for the row counts of one micro-batch and runs it.

import type { Backend } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import type { ArgsOf, OpName } from "../ops/index.ts";
import { tensorsOf } from "../ops/op.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../tensor/tensor.ts";
import { type ArenaPlan, planArena } from "./arena-plan.ts";
import { type Call, Parameter, type Runtime, rowsOf, type Shape, substitute, Value } from "./graph.ts";
import { phantomBuffer } from "./phantom.ts";

/** Attributes that change from run to run, by the key of their `Runtime`. */
export type RuntimeValues = Readonly<Record<string, unknown>>;

/** Plans a list at its largest shape, scratch included. */
export function planProgram(
  backend: Pick<Backend, "scratchBytes">,
  calls: readonly Call[],
  pinned: ReadonlySet<Value>,
  largest: Shape,
  runtime: RuntimeValues,
): ArenaPlan {
  const buffer = phantomBuffer("plan");
  const view = (value: Value) => matrix(buffer, value.dtype, rowsOf(value, largest), value.cols);
  const scratch = calls.map((entry) => backend.scratchBytes(entry.op, bind(entry, view, runtime)));
  return planArena(calls, pinned, largest, Math.max(0, ...scratch));
}

/** A list on the views of one shape. */
type BoundList = readonly (() => void)[];

/** Shapes whose bound lists are kept. */
const MOST_KEPT = 16;

/** Owns the arena of one list. */
export class Program implements Disposable {
  readonly plan: ArenaPlan;
  readonly #backend: Backend;
  readonly #calls: readonly Call[];
  readonly #largest: Shape;
  readonly #arena: DeviceBuffer;
  readonly #kept = new Map<string, BoundList>();
  /** Every buffer that the list touches: none may be released before it runs. */
  readonly #buffers = new Set<DeviceBuffer>();
  /** The list was checked against the ops' signatures. */
  #checked = false;

  /** Allocates the planned bytes. Throws MEMORY_EXCEEDED. */
  constructor(backend: Backend, calls: readonly Call[], plan: ArenaPlan, largest: Shape, label: string) {
    this.#backend = backend;
    this.#calls = calls;
    this.plan = plan;
    this.#largest = largest;
    this.#arena = backend.alloc(Math.max(64, plan.bytes), label);
  }

  /** A view of a value at the row counts of `shape`. */
  tensor(value: Value, shape: Shape): Tensor {
    const offset = this.plan.offsets.get(value);
    if (offset === undefined) throw new QdlError("OP_ARGUMENT", `value ${value.name} is not part of this program`);
    return matrix(this.#arena, value.dtype, rowsOf(value, shape), value.cols, offset);
  }

  write(value: Value, content: Int32Array | Float32Array): void {
    const offset = this.plan.offsets.get(value)!;
    this.#backend.write(this.#arena, offset, new Uint8Array(content.buffer, content.byteOffset, content.byteLength));
  }

  /** Runs the list. Row counts may be anything up to those it was planned for. */
  run(shape: Shape, runtime: RuntimeValues): void {
    for (const key of Object.keys(shape) as (keyof Shape)[])
      if (shape[key] > this.#largest[key])
        throw new QdlError(
          "OP_ARGUMENT",
          `${key} = ${shape[key]} rows, but the step was planned for ${this.#largest[key]}`,
        );
    const calls = this.#bind(shape, runtime);
    for (const buffer of this.#buffers)
      if (buffer.disposed)
        throw new QdlError("TENSOR_STALE", `"${buffer.label}" was released, but a step still reads it`);
    for (const call of calls) call();
  }

  /** The list on the views of one shape: kept, since decoding and packed training run the same shape again and again. */
  #bind(shape: Shape, runtime: RuntimeValues): BoundList {
    const key = JSON.stringify([shape, runtime]);
    const kept = this.#kept.get(key);
    if (kept) return kept;
    const { scratchBytes, scratchOffset } = this.plan;
    const scratch = scratchBytes > 0 ? matrix(this.#arena, "u8", 1, scratchBytes, scratchOffset) : null;
    const calls = this.#calls.map((entry) => {
      const args = bind(entry, (value) => this.tensor(value, shape), runtime);
      if (!this.#checked) for (const { tensor } of tensorsOf(args)) this.#buffers.add(tensor.buffer);
      return this.#backend.prepare(entry.op, args, scratch, this.#checked);
    });
    // Other shapes are the same views, of the same buffers, with fewer rows.
    this.#checked = true;
    if (this.#kept.size === MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    this.#kept.set(key, calls);
    return calls;
  }

  [Symbol.dispose](): void {
    this.#arena.dispose();
  }
}

function bind(entry: Call, view: (value: Value) => Tensor, runtime: RuntimeValues): ArgsOf<OpName> {
  const replace = (symbol: Value | Parameter | Runtime<unknown>): unknown => {
    if (symbol instanceof Value) return view(symbol);
    if (symbol instanceof Parameter) return symbol.value;
    if (!(symbol.key in runtime))
      throw new QdlError("OP_ARGUMENT", `${entry.op}: no value was given for <${symbol.key}>`);
    return runtime[symbol.key];
  };
  return Object.fromEntries(
    Object.entries(entry.args).map(([key, argument]) => [key, substitute(argument, replace)]),
  ) as unknown as ArgsOf<OpName>;
}
