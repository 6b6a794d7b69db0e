// THE CONTRACT, as types. An op is declared before any kernel exists: its equation, signature, checks, exact reference,
// samples, tolerance and cost belong to the op and not to a device, so all backends are tested alike and fail alike.
//
// Policy, obeyed by every op: outputs are arguments; an op never allocates and never owns. "out" overwrites, "acc" adds
// to what is there; "spare" is room that may be overwritten, and means nothing before and after. Inputs are not changed. Rows may have a stride larger than their width (a [1, *] row is dense). An
// output may share memory with an input only where the op's signature says `mayAlias`.
//
// Dtypes in one call: activations, their gradients, biases of linears and the adapters' compute copies all have ONE compute
// dtype (f32 or bf16; f64 in gradient checks). Arguments that exclude bf16 are statistics and masters: f32 beside f32 and
// bf16, f64 beside f64. Free of the compute dtype: frozen weights, A and B of an adapter (f32 masters beside bf16), both sides of cast, weights and biases of norms, and the
// table or weight of embed, matmul and linearCrossEntropy (bf16 or f32). A backend throws OP_UNSUPPORTED for other mixes that it lacks.
// Whatever the dtypes: products are accumulated in f32 or wider, and rounded to the output's dtype once.

import { QdlError } from "../errors.ts";
import type { Dim } from "../tensor/dims.ts";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.ts";
import { type DeviceBuffer, isTensor, spanBytes, type Tensor } from "../tensor/tensor.ts";

export type Access = "in" | "out" | "acc" | "spare";

/** Compute dtypes that the samples of most ops run under; a backend's suite picks those it has. */
export const FLOATS = ["f64", "f32", "bf16"] as const satisfies readonly DType[];

/** Dtype of statistics and masters beside a compute dtype. */
export const statisticsDtype = (compute: DType): "f64" | "f32" => (compute === "f64" ? "f64" : "f32");

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
  /**
   * "exact": every backend gives the reference's result to the bit. Else by dtype of the output; an f32 output under
   * bf16 compute has f32's tolerance, unless `bf16Inside` says that values are rounded on the way to it.
   */
  readonly tolerance: "exact" | Readonly<Partial<Record<DType, Tolerance>>>;
  readonly bf16Inside?: true;
  readonly cost: (args: A) => Cost;
  /**
   * The same call on rows from..to−1 alone, for ops that treat every row by itself: large samples are compared with the
   * reference on some of their rows.
   */
  readonly rowsOf?: (args: A, from: number, to: number) => A;
}

/** Bytes of all tensors of a call, each moved once. */
export function bytesOf(args: OpArgs): number {
  return tensorsOf(args).reduce((sum, { tensor: t }) => sum + t.rows * t.cols * BYTES_PER_ELEMENT[t.dtype], 0);
}

/** Checks `args` against the op's signature, then its own rules. Throws OP_ARGUMENT naming op, argument, expected, got. */
export function checkOp<A extends OpArgs>(op: Op<A>, args: A): void {
  const bound: Bindings = new Map();
  const specs = Object.entries(op.signature as Readonly<Record<string, TensorSpec>>);
  for (const [name, spec] of specs) {
    const value = (args as Readonly<Record<string, unknown>>)[name];
    if (!spec.list) checkTensor(op, name, spec, value, bound, null);
    else if (!Array.isArray(value)) throw broken(op, name, "a list of tensors", typeof value);
    else for (const [i, entry] of value.entries()) checkTensor(op, `${name}[${i}]`, spec, entry, bound, i);
  }
  const tensors = tensorsOf(args);
  for (const { name, tensor } of tensors) checkView(op, name, tensor);
  checkOverlap(op, tensors);
  op.validate?.(args);
}

/** What errors need to know of an op. */
export type Named = { readonly name: string };

export function broken(op: Named, argument: string, expected: string, got: unknown): QdlError {
  return new QdlError("OP_ARGUMENT", `${op.name}: ${argument} is ${String(got)}, expected ${expected}`, {
    details: { op: op.name, argument, expected, got },
  });
}

/** Letters already seen in this call, with their number and the argument that set it. */
type Bindings = Map<string, { readonly value: number; readonly by: string }>;

function checkTensor(op: Named, name: string, spec: TensorSpec, value: unknown, bound: Bindings, index: number | null) {
  if (spec.optional && (value ?? null) === null) return;
  if (!isTensor(value)) throw broken(op, name, "a tensor", value === null ? "null" : typeof value);
  if (!spec.dtypes.includes(value.dtype)) throw broken(op, `${name}.dtype`, spec.dtypes.join(" or "), value.dtype);
  bindDim(op, `${name}.rows`, spec, spec.dims[0], value.rows, bound, index);
  bindDim(op, `${name}.cols`, spec, spec.dims[1], value.cols, bound, index);
}

function bindDim(
  op: Named,
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

/** A view must lie inside a live buffer, start on a whole element, and have rows that do not run into each other. */
function checkView(op: Named, name: string, tensor: Tensor): void {
  const { buffer, offset, rows, cols, stride, dtype } = tensor;
  if (buffer.disposed)
    throw new QdlError("TENSOR_STALE", `${op.name}: ${name} lies in "${buffer.label}", which was released`);
  for (const [what, size] of Object.entries({ rows, cols, stride, offset }))
    if (!Number.isSafeInteger(size) || size < 0) throw broken(op, `${name}.${what}`, "a whole number ≥ 0", size);
  if (stride < cols) throw broken(op, `${name}.stride`, `at least ${cols}`, stride);
  const align = BYTES_PER_ELEMENT[dtype];
  if (offset % align !== 0) throw broken(op, `${name}.offset`, `a multiple of ${align} bytes (${dtype})`, offset);
  const end = offset + spanBytes(tensor);
  if (end > buffer.bytes)
    throw broken(op, name, `a view inside its ${buffer.bytes}-byte buffer`, `bytes ${offset}..${end}`);
}

export interface NamedTensor {
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

/** An output shares memory with no other argument, but where its signature allows it. */
function checkOverlap<A extends OpArgs>(op: Op<A>, tensors: readonly NamedTensor[]): void {
  const specs = op.signature as Readonly<Record<string, TensorSpec | undefined>>;
  const isInput = ({ key }: NamedTensor): boolean => (specs[key]?.access ?? "in") === "in";
  const mayShare = (output: NamedTensor, input: NamedTensor): boolean =>
    isInput(input) &&
    (specs[output.key]?.mayAlias?.includes(input.key) ?? false) &&
    sameView(output.tensor, input.tensor);
  for (const [one, other] of touchingPairs(tensors)) {
    const [output, input] = isInput(one) ? [other, one] : [one, other];
    if (isInput(output) || mayShare(output, input)) continue;
    throw broken(op, output.name, `memory apart from ${input.name}`, "an overlapping view");
  }
}

/** Pairs that share a byte. Sorted by address first: an optimizer step has thousands of tensors and no such pair. */
function* touchingPairs(tensors: readonly NamedTensor[]): Generator<[NamedTensor, NamedTensor]> {
  const sorted = [...tensors].sort((a, b) => a.tensor.offset - b.tensor.offset);
  /** Per buffer, the tensors that reach beyond the offset looked at. */
  const open = new Map<DeviceBuffer, NamedTensor[]>();
  for (const entry of sorted) {
    const { buffer, offset } = entry.tensor;
    const reaching = (open.get(buffer) ?? []).filter(({ tensor }) => tensor.offset + spanBytes(tensor) > offset);
    for (const earlier of reaching) if (overlap(earlier.tensor, entry.tensor)) yield [earlier, entry];
    open.set(buffer, [...reaching, entry]);
  }
}

/** Whether two views share a byte. Column slices of one matrix interleave without touching. */
function overlap(a: Tensor, b: Tensor): boolean {
  if (a.buffer !== b.buffer || spanBytes(a) === 0 || spanBytes(b) === 0) return false;
  if (a.offset >= b.offset + spanBytes(b) || b.offset >= a.offset + spanBytes(a)) return false;
  const pitch = a.stride * BYTES_PER_ELEMENT[a.dtype];
  if (pitch !== b.stride * BYTES_PER_ELEMENT[b.dtype]) return true;
  const phase = (((b.offset - a.offset) % pitch) + pitch) % pitch;
  return phase < rowBytes(a) || phase + rowBytes(b) > pitch;
}

const rowBytes = (t: Tensor): number => t.cols * BYTES_PER_ELEMENT[t.dtype];

const sameView = (a: Tensor, b: Tensor): boolean =>
  a.offset === b.offset && a.stride === b.stride && a.rows === b.rows && a.cols === b.cols && a.dtype === b.dtype;
