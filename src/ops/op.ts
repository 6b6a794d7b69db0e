// THE CONTRACT, as types. An op is declared before any kernel exists: its equation, signature, checks, exact reference,
// samples, tolerance and cost belong to the op and not to a device, so all backends are tested alike and fail alike.
//
// Policy, obeyed by every op: outputs are arguments; an op never allocates and never owns. "out" overwrites, "acc" adds
// to what is there. Inputs are not changed. Rows may have a stride larger than their width. An output may share memory
// with an input only where the op's signature says `mayAlias`.

import { QdlError } from "../errors.ts";
import type { Dim } from "../tensor/dims.ts";
import type { DType } from "../tensor/dtype.ts";
import { isTensor, spanBytes, type Tensor } from "../tensor/tensor.ts";

export type Access = "in" | "out" | "acc";

export interface TensorSpec {
  readonly access: Access;
  /** [rows, columns] by letter of tensor/dims.ts; equal letters in one call must be equal numbers ("*": anything). */
  readonly dims: readonly [Dim, Dim];
  readonly dtypes: readonly DType[];
  /** The argument may be null. */
  readonly optional?: true;
  /** The argument is a list; letters that vary from entry to entry are bound per entry index. */
  readonly list?: { readonly varying: readonly Dim[] };
  /** Names of "in" arguments whose memory this output may be. */
  readonly mayAlias?: readonly string[];
}

/** Argument of an op: tensors, lists of tensors, frozen weights, and plain attributes, in one flat object. */
export type OpArgs = object;

type TensorKeys<A> = {
  [K in keyof A]-?: NonNullable<A[K]> extends Tensor
    ? K
    : NonNullable<A[K]> extends readonly (infer E)[]
      ? NonNullable<E> extends Tensor
        ? K
        : never
      : never;
}[keyof A];

export type Signature<A> = { readonly [K in TensorKeys<A>]: TensorSpec };

/** How the backward of an op follows from its forward arguments: backward argument ← forward argument or its gradient. */
export interface GradientRule {
  readonly op: string;
  readonly args: Readonly<Record<string, string | { readonly gradientOf: string }>>;
  readonly attributes?: Readonly<Record<string, unknown>>;
}

export interface Cost {
  /** Useful floating-point operations, 2 per multiply–add. */
  readonly flops: number;
  /** Bytes that must move at least once. */
  readonly bytes: number;
}

export interface Tolerance {
  /** Bound on ‖got − want‖ / ‖want‖ over the whole output. */
  readonly normalised: number;
  /** Bound on max |got − want| / (rms of want). */
  readonly worst: number;
  readonly reason: string;
}

/** Makes the host tensors of a sample from a seeded stream. */
export interface SampleMaker {
  /** Compute dtype under test: that of activations. */
  readonly dtype: DType;
  /** Normal values with the given standard deviation (default 1). */
  normal(dtype: DType, rows: number, cols: number, deviation?: number): Tensor;
  /** Whole numbers from..to−1. */
  integers(dtype: "i32" | "u8", rows: number, cols: number, from: number, to: number): Tensor;
  values(dtype: DType, rows: number, cols: number, values: ArrayLike<number>): Tensor;
  /** An output: filled with NaN (or 0x7f bytes) when "out", with normal values when "acc". */
  output(access: "out" | "acc", dtype: DType, rows: number, cols: number): Tensor;
}

export interface Sample<A> {
  readonly name: string;
  readonly dtypes: readonly DType[];
  make(maker: SampleMaker): A;
}

export interface BadSample<A> {
  readonly name: string;
  make(maker: SampleMaker): A;
}

export interface Op<A extends OpArgs> {
  readonly name: string;
  readonly signature: Signature<A>;
  /** Checks beyond the signature; throws OP_ARGUMENT. */
  readonly validate?: (args: A) => void;
  /** Exact result in double precision on host tensors; the oracle of every backend. */
  readonly reference: (args: A) => void;
  readonly gradient?: GradientRule | "passThrough";
  readonly samples: readonly Sample<A>[];
  /** Each must raise OP_ARGUMENT on every backend. */
  readonly badSamples: readonly BadSample<A>[];
  /** Per compute dtype. */
  readonly tolerance: Readonly<Partial<Record<DType, Tolerance>>>;
  readonly cost: (args: A) => Cost;
}

/** Checks `args` against the op's signature, then its own rules. Throws OP_ARGUMENT naming op, argument, expected, got. */
export function checkOp<A extends OpArgs>(op: Op<A>, args: A): void {
  const bound = new Map<string, { value: number; by: string }>();
  for (const [name, spec] of Object.entries<TensorSpec>(op.signature)) {
    const value = (args as Record<string, unknown>)[name];
    if (spec.list) {
      if (!Array.isArray(value)) throw broken(op, name, "a list of tensors", typeof value);
      value.forEach((entry, i) => {
        checkTensor(op, `${name}[${i}]`, spec, entry, bound, i);
      });
    } else checkTensor(op, name, spec, value, bound, null);
  }
  checkOverlap(op, args);
  op.validate?.(args);
}

export function broken(op: { readonly name: string }, argument: string, expected: string, got: unknown): QdlError {
  return new QdlError("OP_ARGUMENT", `${op.name}: ${argument} is ${String(got)}, expected ${expected}`, {
    details: { op: op.name, argument, expected, got },
  });
}

type Bindings = Map<string, { value: number; by: string }>;

function checkTensor(
  op: Op<never> | { name: string },
  name: string,
  spec: TensorSpec,
  value: unknown,
  bound: Bindings,
  index: number | null,
) {
  if (value === null || value === undefined) {
    if (spec.optional) return;
    throw broken(op, name, "a tensor", value);
  }
  if (!isTensor(value)) throw broken(op, name, "a tensor", typeof value);
  if (value.buffer.disposed)
    throw new QdlError("TENSOR_STALE", `${op.name}: ${name} lies in "${value.buffer.label}", which was released`);
  if (!spec.dtypes.includes(value.dtype)) throw broken(op, `${name}.dtype`, spec.dtypes.join(" or "), value.dtype);
  if (value.stride < value.cols) throw broken(op, `${name}.stride`, `at least ${value.cols}`, value.stride);
  if (value.offset < 0 || value.offset + spanBytes(value) > value.buffer.bytes)
    throw broken(
      op,
      name,
      `a view inside its ${value.buffer.bytes}-byte buffer`,
      `bytes ${value.offset}..${value.offset + spanBytes(value)}`,
    );
  bindDim(op, `${name}.rows`, spec, spec.dims[0], value.rows, bound, index);
  bindDim(op, `${name}.cols`, spec, spec.dims[1], value.cols, bound, index);
}

function bindDim(
  op: { name: string },
  what: string,
  spec: TensorSpec,
  dim: Dim,
  size: number,
  bound: Bindings,
  index: number | null,
) {
  if (dim === "*") return;
  if (dim === "1") {
    if (size !== 1) throw broken(op, what, "1", size);
    return;
  }
  const key = index !== null && spec.list?.varying.includes(dim) ? `${dim}[${index}]` : dim;
  const known = bound.get(key);
  if (!known) bound.set(key, { value: size, by: what });
  else if (known.value !== size) throw broken(op, what, `${known.value} (${dim}, from ${known.by})`, size);
}

interface NamedTensor {
  readonly name: string;
  readonly key: string;
  readonly tensor: Tensor;
}

/** Every tensor in the arguments with its path, nested ones (frozen weights, lists) included. */
export function tensorsOf(args: OpArgs): NamedTensor[] {
  const found: NamedTensor[] = [];
  const visit = (value: unknown, key: string, name: string): void => {
    if (isTensor(value)) found.push({ name, key, tensor: value });
    else if (Array.isArray(value)) for (const [i, entry] of value.entries()) visit(entry, key, `${name}[${i}]`);
    else if (typeof value === "object" && value !== null)
      for (const [k, v] of Object.entries(value)) visit(v, key, `${name}.${k}`);
  };
  for (const [key, value] of Object.entries(args)) visit(value, key, key);
  return found;
}

/** A copy of the arguments in which every tensor is replaced. */
export function mapTensors<A extends OpArgs>(args: A, map: (tensor: Tensor, name: string, key: string) => Tensor): A {
  const visit = (value: unknown, key: string, name: string): unknown => {
    if (isTensor(value)) return map(value, name, key);
    if (Array.isArray(value)) return value.map((entry, i) => visit(entry, key, `${name}[${i}]`));
    if (typeof value === "object" && value !== null)
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, visit(v, key, `${name}.${k}`)]));
    return value;
  };
  return Object.fromEntries(Object.entries(args).map(([k, v]) => [k, visit(v, k, k)])) as A;
}

function checkOverlap<A extends OpArgs>(op: Op<A>, args: A): void {
  const specs = op.signature as Readonly<Record<string, TensorSpec | undefined>>;
  const all = tensorsOf(args);
  for (const output of all) {
    const spec = specs[output.key];
    if (!spec || spec.access === "in") continue;
    for (const other of all) {
      if (other === output || other.tensor.buffer !== output.tensor.buffer || !overlap(output.tensor, other.tensor))
        continue;
      const otherIsInput = (specs[other.key]?.access ?? "in") === "in";
      if (otherIsInput && spec.mayAlias?.includes(other.key) && sameView(output.tensor, other.tensor)) continue;
      throw broken(op, output.name, `memory apart from ${other.name}`, "an overlapping view");
    }
  }
}

/** Whether two views of one buffer share a byte. Column slices of one matrix interleave without touching. */
function overlap(a: Tensor, b: Tensor): boolean {
  const endA = a.offset + spanBytes(a);
  const endB = b.offset + spanBytes(b);
  if (a.offset >= endB || b.offset >= endA) return false;
  const pitchA = spanPitch(a);
  if (pitchA !== spanPitch(b) || pitchA === 0) return true;
  const widthA = rowBytes(a);
  const widthB = rowBytes(b);
  const phase = (((b.offset - a.offset) % pitchA) + pitchA) % pitchA;
  return phase < widthA || phase + widthB > pitchA;
}

const elementBytes = (t: Tensor): number =>
  t.rows * t.cols === 0 ? 0 : spanBytes(t) / ((t.rows - 1) * t.stride + t.cols);
const spanPitch = (t: Tensor): number => t.stride * elementBytes(t);
const rowBytes = (t: Tensor): number => t.cols * elementBytes(t);
const sameView = (a: Tensor, b: Tensor): boolean => a.offset === b.offset && a.stride === b.stride && a.cols === b.cols;
