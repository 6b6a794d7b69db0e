// A list with memory: binds each call to views of the arena for the row counts of one micro-batch and runs it.

import type { Backend, Planner, Recording, Wish } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import type { ArgsOf, OpName } from "../ops/index.ts";
import { tensorsOf } from "../ops/op.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../tensor/tensor.ts";
import { type ArenaPlan, areSideBySide, type Placement, planPlaces, withScratch } from "./arena-plan.ts";
import { type Call, Parameter, Runtime, rowsOf, type Shape, substitute, Value, valuesIn } from "./graph.ts";
import { phantomBuffer } from "./phantom.ts";

/** Attributes that change from run to run, by the key of their `Runtime`. */
export type RuntimeValues = Readonly<Record<string, unknown>>;

/** Plans a list at its largest shape, scratch included. */
export function planProgram(
  backend: Planner,
  calls: readonly Call[],
  pinned: ReadonlySet<Value>,
  largest: Shape,
  runtime: RuntimeValues,
): ArenaPlan {
  const buffer = phantomBuffer("plan");
  const anywhere = (value: Value) => matrix(buffer, value.dtype, rowsOf(value, largest), value.cols);
  const wishes = calls.map((entry) => backend.wishes(entry.op, bind(entry, anywhere, runtime)));
  const places = planPlaces(calls, wishes, pinned, largest);
  const views = { placements: places.placements, arena: buffer, hostArena: buffer, shape: largest };
  const scratch = calls.map((entry) => backend.scratchBytes(entry.op, bindPlaced(backend, entry, views, runtime)));
  return withScratch(places, Math.max(0, ...scratch));
}

/** Bound lists that are kept: some shapes of packed batches or of decoding, each at every rank of a large adapter. */
const MOST_KEPT = { shapes: 8, lists: 128 };

/** The calls on the views of one shape that no attribute of a run changes; null in place of the others. */
type ShapeBound = readonly ((() => void) | null)[];

/** Binds a list to an arena, which it owns unless it is given one. */
export class Program implements Disposable {
  readonly plan: ArenaPlan;
  readonly #backend: Backend;
  readonly #calls: readonly Call[];
  readonly #largest: Shape;
  readonly #arena: DeviceBuffer;
  /** Values that wait in the host's memory; null where none does. */
  readonly #hostArena: DeviceBuffer | null;
  readonly #ownsArena: boolean;
  readonly #byShape = new Map<string, ShapeBound>();
  readonly #lists = new Map<string, Recording>();
  /** Every buffer that the list touches: none may be released before it runs. */
  readonly #buffers = new Set<DeviceBuffer>();
  /** The list was checked against the ops' signatures. */
  #checked = false;

  /**
   * Allocates the planned bytes under the given label, or lives in an arena that others use at other times. What waits in
   * the host's memory is its own in any case. Throws MEMORY_EXCEEDED.
   */
  constructor(backend: Backend, calls: readonly Call[], plan: ArenaPlan, largest: Shape, arena: string | DeviceBuffer) {
    this.#backend = backend;
    this.#calls = calls;
    this.plan = plan;
    this.#largest = largest;
    this.#ownsArena = typeof arena === "string";
    this.#hostArena = plan.hostBytes > 0 ? backend.alloc(plan.hostBytes, "offloaded activations", "host") : null;
    try {
      this.#arena = typeof arena === "string" ? backend.alloc(Math.max(64, plan.bytes), arena) : arena;
    } catch (error) {
      this.#hostArena?.dispose();
      throw error;
    }
  }

  /** Bytes of the arena, which may be larger than the plan where others use it too. */
  get arenaBytes(): number {
    return this.#arena.bytes;
  }

  /** A view of a value at the row counts of `shape`. */
  tensor(value: Value, shape: Shape): Tensor {
    return viewOf(value, this.#views(shape));
  }

  write(value: Value, content: Int32Array | Float32Array): void {
    const { offset } = this.plan.placements.get(value)!;
    this.#backend.write(this.#arena, offset, new Uint8Array(content.buffer, content.byteOffset, content.byteLength));
  }

  /** Binds the list for a later run, whose first then starts at once. */
  prepare(shape: Shape, runtime: RuntimeValues): void {
    this.#bind(shape, runtime);
  }

  /** Runs the list. Row counts may be anything up to those it was planned for. */
  run(shape: Shape, runtime: RuntimeValues): void {
    const list = this.#bind(shape, runtime);
    for (const buffer of this.#buffers)
      if (buffer.disposed)
        throw new QdlError("TENSOR_STALE", `"${buffer.label}" was released, but a step still reads it`);
    list.run();
  }

  /**
   * The list on the views of one shape: kept, since decoding and packed training run the same shapes again and again, at
   * a few or at all ranks. Calls that no attribute of the run changes are bound once for all of these.
   */
  #bind(shape: Shape, runtime: RuntimeValues): Recording {
    for (const key of Object.keys(shape) as (keyof Shape)[])
      if (shape[key] > this.#largest[key])
        throw new QdlError(
          "OP_ARGUMENT",
          `${key} = ${shape[key]} rows, but the step was planned for ${this.#largest[key]}`,
        );
    const shapeKey = JSON.stringify(shape);
    const make = () => {
      const still = keep(this.#byShape, MOST_KEPT.shapes, shapeKey, () =>
        this.#calls.map((entry) => (dependsOnRun(entry) ? null : this.#bindCall(entry, shape, runtime))),
      );
      const calls = still.map((call, i) => call ?? this.#bindCall(this.#calls[i]!, shape, runtime));
      // Other shapes are the same views, of the same buffers, with fewer rows.
      this.#checked = true;
      return record(this.#backend, calls);
    };
    return keep(this.#lists, MOST_KEPT.lists, shapeKey + JSON.stringify(runtime), make, (dropped) => dropped.dispose());
  }

  #bindCall(entry: Call, shape: Shape, runtime: RuntimeValues): () => void {
    const { scratchBytes, scratchOffset } = this.plan;
    const scratch = scratchBytes > 0 ? matrix(this.#arena, "u8", 1, scratchBytes, scratchOffset) : null;
    const args = bindPlaced(this.#backend, entry, this.#views(shape), runtime);
    if (!this.#checked) for (const { tensor } of tensorsOf(args)) this.#buffers.add(tensor.buffer);
    return this.#backend.prepare(entry.op, args, scratch, this.#checked);
  }

  #views(shape: Shape): Views {
    return { placements: this.plan.placements, arena: this.#arena, hostArena: this.#hostArena, shape };
  }

  [Symbol.dispose](): void {
    for (const list of this.#lists.values()) list.dispose();
    this.#lists.clear();
    this.#hostArena?.dispose();
    if (this.#ownsArena) this.#arena.dispose();
  }
}

const record = (backend: Backend, calls: readonly (() => void)[]): Recording =>
  backend.record?.(calls) ?? {
    run() {
      for (const call of calls) call();
    },
    dispose() {},
  };

/** Makes an entry, and drops the oldest one when there are too many. */
function keep<T>(
  kept: Map<string, T>,
  most: number,
  key: string,
  make: () => T,
  drop: (dropped: T) => void = () => {},
): T {
  const known = kept.get(key);
  if (known) return known;
  const made = make();
  const [oldest] = kept;
  if (oldest && kept.size === most) {
    kept.delete(oldest[0]);
    drop(oldest[1]);
  }
  kept.set(key, made);
  return made;
}

const dependsOnRun = ({ args }: Call): boolean => Object.values(args).some(hasRuntime);

function hasRuntime(argument: unknown): boolean {
  return argument instanceof Runtime || (Array.isArray(argument) && argument.some(hasRuntime));
}

/** Where a list's values lie, and how many rows they have. */
interface Views {
  readonly placements: ReadonlyMap<Value, Placement>;
  readonly arena: DeviceBuffer;
  /** Of the values in the host's memory; null where there are none. */
  readonly hostArena: DeviceBuffer | null;
  readonly shape: Shape;
}

function viewOf(value: Value, { placements, arena: onDevice, hostArena, shape }: Views): Tensor {
  const placement = placements.get(value);
  const arena = value.memory === "host" ? hostArena! : onDevice;
  if (!placement) throw new QdlError("OP_ARGUMENT", `value ${value.name} is not part of this program`);
  return matrix(arena, value.dtype, rowsOf(value, shape), value.cols, placement.offset, placement.stride);
}

/** A call's arguments in their places, with the spare columns that its kernel wishes for where the plan grants them. */
function bindPlaced(backend: Planner, entry: Call, views: Views, runtime: RuntimeValues): ArgsOf<OpName> {
  const args = bind(entry, (value) => viewOf(value, views), runtime);
  const tails = backend.wishes(entry.op, args).map((wish) => [wish.tail, tailOf(entry, wish, views)]);
  return Object.assign(args, Object.fromEntries(tails));
}

/** null where the values do not lie side by side, or too few columns are spare behind them. */
function tailOf(entry: Call, { beside, tailColumns }: Wish, views: Views): Tensor | null {
  const values = valuesIn(entry.args[beside]);
  const last = values.at(-1);
  if (!last || !areSideBySide(values, views.placements)) return null;
  const { offset, stride, spare } = views.placements.get(last)!;
  if (spare < tailColumns) return null;
  const from = offset + last.cols * BYTES_PER_ELEMENT[last.dtype];
  return matrix(views.arena, last.dtype, rowsOf(last, views.shape), tailColumns, from, stride);
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
