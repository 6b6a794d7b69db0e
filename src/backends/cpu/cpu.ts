// The CPU backend: C++ kernels for the best instruction set of this machine, run by a native thread pool. Every call returns
// after its work. Results are bit-identical for any number of threads.

import { cpus } from "node:os";
import { QdlError } from "../../errors.ts";
import type { ArgsOf, OpName } from "../../ops/index.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Backend, DeviceMemory, KernelTable, Wish } from "../backend.ts";
import { BufferLedger, prepareOp, runOp, scratchBytesOf, wishesOf } from "../base.ts";
import { addressOf, CpuBuffer } from "./buffer.ts";
import { findOrBuildLibrary, hasBf16Products, type Isa } from "./build.ts";
import { loadLibrary, type NativeLibrary } from "./ffi.ts";
import { kernelTable } from "./kernels.ts";
import { defaultThreads } from "./threads.ts";
import { Words } from "./words.ts";

export interface CpuOptions {
  /** Default: the cores that this process may use. */
  readonly threads?: number;
  /** An instruction set to force; default: the best one that this CPU has. */
  readonly isa?: Isa | (string & {});
}

const MOST_THREADS = 1024;

/** Opens the backend. Throws BACKEND_UNAVAILABLE if there is no library, no such instruction set, or no such thread count. */
export async function openCpu(options: CpuOptions = {}): Promise<CpuBackend> {
  return openCpuOf(await openLibrary(), options);
}

/** The same over a library that is loaded already. */
export function openCpuOf(library: NativeLibrary, options: CpuOptions = {}): CpuBackend {
  const threads = options.threads ?? defaultThreads();
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS)
    throw new QdlError(
      "BACKEND_UNAVAILABLE",
      `cpu: threads is ${threads}, expected a whole number from 1 to ${MOST_THREADS}`,
    );
  const isas = runnableIsas(library);
  const isa = options.isa ?? isas.at(-1)!;
  if (!isas.includes(isa as Isa))
    throw new QdlError(
      "BACKEND_UNAVAILABLE",
      `cpu: isa is "${isa}", expected one that this CPU has: ${isas.join(", ")}`,
      {
        hint: "Leave isa out to use the best one.",
        details: { isa, available: isas },
      },
    );
  return new CpuBackend(library, isa as Isa, threads);
}

/** The instruction sets that this CPU and this build have, slowest first. */
export async function availableIsas(): Promise<Isa[]> {
  return runnableIsas(await openLibrary());
}

let loaded: Promise<NativeLibrary> | undefined;

/** Found or compiled once per process; after a failure the next call tries again. */
function openLibrary(): Promise<NativeLibrary> {
  loaded ??= findOrBuildLibrary()
    .then(loadLibrary)
    .catch((cause) => {
      loaded = undefined;
      if (cause instanceof QdlError) throw cause;
      throw new QdlError("BACKEND_UNAVAILABLE", `cpu: the kernel library cannot be loaded: ${cause}`, {
        hint: "Delete the package's build/cpu folder; it is compiled again at the next use.",
        cause,
      });
    });
  return loaded;
}

function variantsOf(library: NativeLibrary): Isa[] {
  const names: Isa[] = [];
  for (let i = 0, name = library.variant(0); name !== null; name = library.variant(++i)) names.push(name as Isa);
  return names;
}

function runnableIsas(library: NativeLibrary): Isa[] {
  return variantsOf(library).filter((_, i) => library.variantRuns(i) !== 0);
}

export class CpuBackend implements Backend {
  readonly name = "cpu";
  readonly description: string;
  readonly instructionSet: string;
  readonly computeDtype: "bf16" | "f32";
  readonly readsMasters = false;
  readonly rates = null;
  readonly kernels: KernelTable;
  readonly threads: number;
  readonly #library: NativeLibrary;
  readonly #ledger = new BufferLedger("cpu");
  readonly #words = new Words();
  readonly #opNumbers = new Map<OpName, number>();
  #context: number;

  constructor(library: NativeLibrary, isa: Isa, threads: number) {
    this.#library = library;
    this.threads = threads;
    this.instructionSet = isa === "baseline" ? `baseline-${process.arch}` : isa;
    this.computeDtype = hasBf16Products(isa) ? "bf16" : "f32";
    this.description = `${cpus()[0]?.model.trim() || process.arch}, ${this.instructionSet}, ${threads} thread${threads === 1 ? "" : "s"}`;
    this.#context = library.open(variantsOf(library).indexOf(isa), threads);
    if (this.#context === 0)
      throw new QdlError("BACKEND_UNAVAILABLE", `cpu: the system grants no memory or threads for ${threads} threads`);
    this.kernels = kernelTable(
      (name, write, scratch) => this.#call(name, write, scratch),
      (name, write, scratch) => this.#prepare(name, write, scratch),
      hasBf16Products(isa),
    );
    for (const name of Object.keys(this.kernels) as OpName[]) this.#opNumbers.set(name, library.op(name));
  }

  get allocatedBytes(): number {
    return this.#ledger.allocatedBytes;
  }

  get peakBytes(): number {
    return this.#ledger.peakBytes;
  }

  alloc(bytes: number, label: string): CpuBuffer {
    const release = (buffer: CpuBuffer) => this.#ledger.remove(buffer);
    return this.#ledger.add(bytes, label, () => new CpuBuffer(this.#library, bytes, label, release));
  }

  /** What the system (or the container) could still give this process, less a tenth for everybody's growth. */
  memory(): DeviceMemory {
    const availableBytes = Math.floor(0.9 * process.availableMemory());
    return { unified: true, availableBytes, hostBytes: 0, overheadBytes: 0, usedBytes: null };
  }

  write(buffer: CpuBuffer, offset: number, bytes: Uint8Array): void {
    this.#ledger.checkRange("write", buffer, offset, bytes.byteLength);
    if (bytes.byteLength > 0) this.#library.copyIn(buffer.address + offset, bytes, bytes.byteLength);
  }

  async read(buffer: CpuBuffer, offset: number, bytes: number): Promise<Uint8Array> {
    this.#ledger.checkRange("read", buffer, offset, bytes);
    const out = new Uint8Array(bytes);
    if (bytes > 0) this.#library.copyOut(out, buffer.address + offset, bytes);
    return out;
  }

  run<K extends OpName>(op: K, args: ArgsOf<K>, scratch: Tensor | null = null): void {
    runOp(this, this.#ledger, op, args, scratch);
  }

  prepare<K extends OpName>(op: K, args: ArgsOf<K>, scratch: Tensor | null, checked = false): () => void {
    return prepareOp(this, this.#ledger, op, args, scratch, checked);
  }

  scratchBytes<K extends OpName>(op: K, args: ArgsOf<K>): number {
    return scratchBytesOf(this, op, args);
  }

  wishes<K extends OpName>(op: K, args: ArgsOf<K>): readonly Wish[] {
    return wishesOf(this, op, args);
  }

  /** FLOP/s of a register loop on all threads: what products of this dtype's activations could reach at most. */
  measurePeak(dtype: "f32" | "bf16", seconds = 0.2): number {
    return this.#library.peak(this.#context, dtype === "bf16" ? 1 : 0, seconds);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ledger.close();
    if (this.#context !== 0) this.#library.close(this.#context);
    this.#context = 0;
  }

  #call(name: OpName, write: (words: Words) => void, scratch: Tensor | null): void {
    if (this.#context === 0) throw disposed(name);
    this.#words.restart();
    write(this.#words);
    this.#library.run(this.#context, this.#opNumbers.get(name)!, this.#words.block, scratch ? addressOf(scratch) : 0);
  }

  #prepare(name: OpName, write: (words: Words) => void, scratch: Tensor | null): () => void {
    this.#words.restart();
    write(this.#words);
    const block = this.#words.block.slice(0, this.#words.length);
    const op = this.#opNumbers.get(name)!;
    const address = scratch ? addressOf(scratch) : 0;
    return () => {
      if (this.#context === 0) throw disposed(name);
      this.#library.run(this.#context, op, block, address);
    };
  }
}

function disposed(name: OpName): QdlError {
  return new QdlError("TENSOR_STALE", `cpu: ${name} was run after the backend was disposed`);
}
