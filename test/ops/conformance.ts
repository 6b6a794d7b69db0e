// The one suite of the op contract, run for every backend: each op, sample and dtype against the op's own reference.
//
// The oracle is the reference on the very inputs of the call (already rounded to bf16 where they are bf16), with every
// output widened to f64: so the expected values carry no rounding of their own, and the whole error is the backend's.
// Ops declared "exact" are compared without widening, value by value.

import { afterAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backends/backend.ts";
import { type ErrorCode, QdlError } from "../../src/errors.ts";
import { OPS, type OpName } from "../../src/ops/index.ts";
import {
  mapTensors,
  type Op,
  type OpArgs,
  type Sample,
  type TensorSpec,
  type Tolerance,
  tensorsOf,
} from "../../src/ops/op.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { hostTensor, readMatrix } from "../../src/tensor/host.ts";
import { matrix, rowSlice, type Tensor } from "../../src/tensor/tensor.ts";
import { brokenCalls } from "./broken-calls.ts";
import { expectClose } from "./compare.ts";
import { itKeepsRanksAndSegmentsApart } from "./promises.ts";
import { sampleMaker, seededStream } from "./sampling.ts";
import {
  ALIGNED,
  bytesOfBuffer,
  DENSE,
  DENSE_AGAIN,
  download,
  elementBytes,
  firstForeignWrite,
  type Layout,
  ODD,
  type Upload,
  upload,
  uploadAsIs,
} from "./upload.ts";

export type AnyOp = Op<OpArgs>;
/** A backend seen without the types of single ops: the suite handles all of them alike. */
export interface AnyRunner {
  run(op: OpName, args: OpArgs, scratch?: Tensor | null): void;
  scratchBytes(op: OpName, args: OpArgs): number;
}

/** Above this many operations, only some rows of the oracle are computed. */
const WHOLE_UP_TO_FLOPS = 50e6;
const GUARD = 64;

/** Registers the suite for one backend. An `open` that fails, fails the test file. */
export async function conformance(
  name: string,
  open: () => Promise<Backend>,
  dtypes: readonly DType[] = ["f32", "bf16"],
): Promise<void> {
  const backend = await open();
  describe(`${name} obeys the contract of`, () => {
    afterAll(() => backend[Symbol.asyncDispose]());
    itKeepsRanksAndSegmentsApart(backend, dtypes);
    for (const [opName, op] of Object.entries(OPS) as [OpName, AnyOp][]) {
      const kernel = backend.kernels[opName];
      describe(opName, () => {
        if ("unsupported" in kernel) itIsUnsupported(backend, op, kernel.unsupported);
        else itConforms(backend, op, dtypes);
      });
    }
  });
}

function itIsUnsupported(backend: Backend, op: AnyOp, reason: string): void {
  it(`is declared unsupported: ${reason}`, () => {
    expect(reason).not.toBe("");
    const loaded = upload(backend, op.samples[0]!.make(sampleMaker("f32", op.name)), DENSE);
    expectCode("OP_UNSUPPORTED", () => run(backend, op, loaded.args));
    loaded.dispose();
  });
}

function itConforms(backend: Backend, op: AnyOp, dtypes: readonly DType[]): void {
  for (const sample of op.samples)
    for (const dtype of dtypes)
      if (sample.dtypes.includes(dtype)) it(`${sample.name} (${dtype})`, () => conforms(backend, op, sample, dtype));

  for (const bad of op.badSamples)
    it(`refuses ${bad.name}`, () => {
      const loaded = uploadAsIs(backend, bad.make(sampleMaker("f32", bad.name)));
      expectCode("OP_ARGUMENT", () => run(backend, op, loaded.args));
      loaded.dispose();
    });

  it("refuses every tensor argument that is null, stale, foreign, misplaced or of a wrong dtype", () => {
    const sample = op.samples.at(1) ?? op.samples[0]!;
    const dtype = sample.dtypes.includes("f32") ? "f32" : sample.dtypes[0]!;
    const calls = [...brokenCalls(op, sample.make(sampleMaker(dtype, op.name)))];
    expect(calls.length).toBeGreaterThan(0);
    for (const { what, code, spoil } of calls) {
      const loaded = upload(backend, sample.make(sampleMaker(dtype, op.name)), DENSE);
      expectCode(code, () => run(backend, op, spoil(loaded.args)), what);
      loaded.dispose();
    }
  });

  it("leaves no memory behind", () => {
    expect(backend.allocatedBytes).toBe(0);
    expect(backend.peakBytes).toBeGreaterThan(0);
  });
}

export async function conforms(backend: Backend, op: AnyOp, sample: Sample<OpArgs>, dtype: DType): Promise<void> {
  const { host, oracle } = prepare(op, sample, dtype);
  let first: readonly Uint8Array[] | null = null;
  for (const layout of [DENSE, DENSE_AGAIN, ODD, ALIGNED]) {
    const loaded = upload(backend, host, layout);
    try {
      await runGuarded(backend, op, loaded);
      const outputs = await checkMemory(backend, op, loaded, layout);
      for (const { name, tensor } of outputs) oracle(name, tensor, `${layout.name}: ${name}`, dtype);
      const bits = outputs.map(({ tensor }) => elementBytes(tensor));
      if (layout === DENSE) first = bits;
      if (layout === DENSE_AGAIN) expectSameBits(outputs, bits, first!);
    } finally {
      loaded.dispose();
    }
  }
}

interface Prepared {
  readonly host: OpArgs;
  readonly oracle: Check;
}

/** Samples with their oracles, for all backends that one test file runs: they depend on nothing else. */
const prepared = new Map<string, Prepared>();

function prepare(op: AnyOp, sample: Sample<OpArgs>, dtype: DType): Prepared {
  const key = `${op.name} ${sample.name} ${dtype}`;
  const known = prepared.get(key);
  if (known) return known;
  const host = sample.make(sampleMaker(dtype, key));
  const made = { host, oracle: oracleOf(op, host) };
  prepared.set(key, made);
  return made;
}

function expectSameBits(
  outputs: readonly { name: string }[],
  got: readonly Uint8Array[],
  first: readonly Uint8Array[],
) {
  for (const [i, { name }] of outputs.entries()) {
    const at = firstForeignWrite(first[i]!, got[i]!, []);
    if (at >= 0) throw new Error(`${name}: byte ${at} differs when the same call is repeated`);
  }
}

type Check = (name: string, got: Tensor, where: string, compute: DType) => void;

/** Compares one output, read back, with what the reference gives: wholly, or on some rows of a large call. */
function oracleOf(op: AnyOp, host: OpArgs): Check {
  const flops = op.cost(host).flops;
  if (flops <= WHOLE_UP_TO_FLOPS) return checkAgainst(op, host, (tensor) => tensor);
  if (!op.rowsOf) throw new Error(`${op.name}: a sample of ${flops} operations needs rowsOf`);
  const rows = op.rowsOf(host, 0, 1) && someRows(op, host);
  const checks = rows.map((row) => checkAgainst(op, op.rowsOf!(host, row, row + 1), (t) => rowSlice(t, row, row + 1)));
  return (...args) => {
    for (const check of checks) check(...args);
  };
}

/** The first and last rows, those around a tile of 64, and five drawn ones. */
function someRows(op: AnyOp, host: OpArgs): number[] {
  const [rowsKey] = Object.entries(op.signature as Record<string, TensorSpec>).find(
    ([, spec]) => spec.dims[0] === "N",
  )!;
  const count = tensorsOf(host).find(({ key }) => key === rowsKey)!.tensor.rows;
  const draw = seededStream(op.name);
  const drawn = Array.from({ length: 5 }, () => Math.floor(draw() * count));
  return [...new Set([0, 63, 64, count - 2, count - 1, ...drawn])].filter((row) => row >= 0 && row < count);
}

function checkAgainst(op: AnyOp, host: OpArgs, part: (tensor: Tensor) => Tensor): Check {
  const expected = mapTensors(host, (tensor, _, key) => (isOutput(op, key) ? oracleOutput(op, tensor, key) : tensor));
  op.reference(expected);
  const before = new Map(tensorsOf(host).map(({ name, tensor }) => [name, readMatrix(tensor)]));
  const wanted = new Map(tensorsOf(expected).map(({ name, tensor }) => [name, readMatrix(tensor)]));
  return (name, got, where, compute) => {
    const values = readMatrix(part(got));
    const want = wanted.get(name)!;
    if (accessOf(op, name) === "acc") expectUntouched(where, before.get(name)!, values, want);
    expectClose(where, values, want, toleranceOf(op, compute, got.dtype));
  };
}

/** A copy of an output for the oracle: in f64 where the op allows it, so that it is not rounded. */
function oracleOutput(op: AnyOp, tensor: Tensor, key: string): Tensor {
  const widen = op.tolerance !== "exact" && specOf(op, key).dtypes.includes("f64");
  return hostTensor(widen ? "f64" : tensor.dtype, tensor.rows, tensor.cols, readMatrix(tensor));
}

/** Elements that the reference leaves alone (rows outside a window) must be left alone to the bit. */
function expectUntouched(where: string, before: Float64Array, got: Float64Array, want: Float64Array): void {
  const at = want.findIndex((value, i) => Object.is(value, before[i]) && !Object.is(got[i], before[i]));
  if (at >= 0) throw new Error(`${where}[${at}] is ${got[at]}, but it must keep ${before[at]}`);
}

export function toleranceOf(op: AnyOp, compute: DType, output: DType): Tolerance | "exact" {
  if (op.tolerance === "exact") return "exact";
  const key = op.bf16Inside && compute === "bf16" ? "bf16" : output;
  const tolerance = op.tolerance[key];
  if (!tolerance) throw new Error(`${op.name} has no tolerance for ${key}`);
  return tolerance;
}

/** Runs with scratch of exactly the declared size between guards, full of NaN. */
export async function runGuarded(backend: Backend, op: AnyOp, { args }: Pick<Upload<OpArgs>, "args">): Promise<void> {
  const bytes = (backend as AnyRunner).scratchBytes(op.name as OpName, args);
  if (bytes === 0) return run(backend, op, args);
  const buffer = backend.alloc(bytes + 2 * GUARD, "scratch");
  try {
    const image = new Uint8Array(bytes + 2 * GUARD).fill(0xff);
    backend.write(buffer, 0, image);
    const scratch = matrix(buffer, "u8", 1, bytes, GUARD);
    run(backend, op, args, scratch);
    const after = await backend.read(buffer, 0, image.length);
    expect(firstForeignWrite(image, after, [scratch]), "bytes around scratch").toBe(-1);
  } finally {
    buffer.dispose();
  }
}

/** Inputs unchanged, guards and gaps intact; returns the outputs, read back. */
async function checkMemory(backend: Backend, op: AnyOp, { args, images }: Upload<OpArgs>, layout: Layout) {
  const tensors = tensorsOf(args);
  const written = tensors.filter(({ key }) => mayWrite(op, key)).map(({ tensor }) => tensor);
  const outputs: { name: string; tensor: Tensor }[] = [];
  for (const { name, key, tensor } of tensors) {
    const after = await download(backend, tensor);
    const views = written.filter(({ buffer }) => buffer === tensor.buffer);
    const changed = firstForeignWrite(images.get(tensor.buffer)!, bytesOfBuffer(after), views);
    expect(changed, `${layout.name}: byte of ${name} that must not change`).toBe(-1);
    if (isOutput(op, key)) outputs.push({ name, tensor: after });
  }
  return outputs;
}

function run(backend: Backend, op: AnyOp, args: OpArgs, scratch: Tensor | null = null): void {
  (backend as AnyRunner).run(op.name as OpName, args, scratch);
}

export const specOf = (op: AnyOp, key: string): TensorSpec => (op.signature as Record<string, TensorSpec>)[key]!;

/** Parts of frozen weights are not in the signature: they are inputs. Spare room holds no result. */
export function isOutput(op: AnyOp, key: string): boolean {
  return mayWrite(op, key) && specOf(op, key).access !== "spare";
}

const mayWrite = (op: AnyOp, key: string): boolean =>
  ((op.signature as Record<string, TensorSpec | undefined>)[key]?.access ?? "in") !== "in";

const accessOf = (op: AnyOp, name: string) => specOf(op, name.replace(/\[.*/, "")).access;

export function expectCode(code: ErrorCode, call: () => void, what = ""): void {
  let thrown: unknown = null;
  try {
    call();
  } catch (error) {
    thrown = error;
  }
  expect(thrown, `${what}: expected ${code}`).toBeInstanceOf(QdlError);
  expect((thrown as QdlError).code, `${what}: ${(thrown as QdlError).message}`).toBe(code);
}
