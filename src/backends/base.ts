// What every backend shares, once: the ledger of its buffers, and the checked way from an op's name to its kernel.
// Used by composition: a backend holds a BufferLedger and calls runOp and scratchBytesOf from its own methods.

import { QdlError } from "../errors.ts";
import { type ArgsOf, type OpName, opNamed } from "../ops/index.ts";
import { broken, checkOp, tensorsOf } from "../ops/op.ts";
import { type DeviceBuffer, spanBytes, type Tensor } from "../tensor/tensor.ts";
import type { Backend, Kernel, Unsupported, Wish } from "./backend.ts";

/** The live buffers of one backend: counts their bytes and refuses to let the backend go before them. */
export class BufferLedger {
  readonly #owner: string;
  readonly #limitBytes: number;
  readonly #free: () => string;
  readonly #live = new Set<DeviceBuffer>();
  #allocatedBytes = 0;
  #peakBytes = 0;
  #closed = false;

  /** `free` says what the device itself reports as free, for the error. */
  constructor(owner: string, limitBytes = Number.POSITIVE_INFINITY, free: () => string = () => "") {
    this.#owner = owner;
    this.#limitBytes = limitBytes;
    this.#free = free;
  }

  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /**
   * Makes a buffer with `allocate` and enters it. Throws MEMORY_EXCEEDED with the numbers if that fails, of the memory that
   * `free` tells of where it is another one.
   */
  add<B extends DeviceBuffer>(bytes: number, label: string, allocate: () => B, free = this.#free): B {
    if (this.#closed)
      throw new QdlError("TENSOR_STALE", `${this.#owner}: alloc of "${label}" after the backend was disposed`);
    if (!Number.isSafeInteger(bytes) || bytes < 0)
      throw broken({ name: "alloc" }, `bytes of "${label}"`, "a whole number ≥ 0", bytes);
    if (this.#allocatedBytes + bytes > this.#limitBytes) throw this.#exceeded(bytes, label, free);
    let buffer: B;
    try {
      buffer = allocate();
    } catch (cause) {
      // What has a code already is no want of memory: a device that failed, for instance.
      if (cause instanceof QdlError) throw cause;
      throw this.#exceeded(bytes, label, free, cause);
    }
    this.#live.add(buffer);
    this.#allocatedBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#allocatedBytes);
    return buffer;
  }

  /** Called by a buffer's `dispose`. */
  remove(buffer: DeviceBuffer): void {
    if (this.#live.delete(buffer)) this.#allocatedBytes -= buffer.bytes;
  }

  /** Throws unless bytes offset..offset+bytes−1 lie in a live buffer of this backend. */
  checkRange(what: string, buffer: DeviceBuffer, offset: number, bytes: number): void {
    if (buffer.disposed)
      throw new QdlError("TENSOR_STALE", `${what}: buffer "${buffer.label}" was used after it was released`);
    if (!this.#live.has(buffer))
      throw broken({ name: what }, `buffer "${buffer.label}"`, `memory of ${this.#owner}`, "memory of another backend");
    if (offset < 0 || bytes < 0 || offset + bytes > buffer.bytes)
      throw broken(
        { name: what },
        "range",
        `inside the ${buffer.bytes} bytes of "${buffer.label}"`,
        `${offset}..${offset + bytes}`,
      );
  }

  /** For the backend's dispose: an owner that goes before its buffers is a bug that must be seen. */
  close(): void {
    if (this.#live.size > 0) {
      const labels = [...this.#live].map((buffer) => `"${buffer.label}" (${buffer.bytes} bytes)`);
      throw new QdlError(
        "TENSOR_STALE",
        `${this.#owner}: disposed while ${labels.length} buffers are alive: ${labels.join(", ")}`,
        {
          hint: "Dispose what owns these buffers before the backend.",
          details: { labels: [...this.#live].map((buffer) => buffer.label) },
        },
      );
    }
    this.#closed = true;
  }

  #exceeded(bytes: number, label: string, free: () => string, cause?: unknown): QdlError {
    const limit = Number.isFinite(this.#limitBytes) ? ` of at most ${this.#limitBytes}` : "";
    const message = `${this.#owner}: ${bytes} bytes for "${label}" do not fit: ${this.#allocatedBytes} bytes${limit} are in use${free()}`;
    return new QdlError("MEMORY_EXCEEDED", message, {
      hint: "Use less: a smaller --batch or --seq, or more --accumulation; or end what else takes this memory.",
      details: { bytes, label, allocatedBytes: this.#allocatedBytes },
      cause,
    });
  }
}

/** A kernel that does not exist, as data with a reason. */
export const unsupported = (reason: string): Unsupported => ({ unsupported: reason });

type KernelOwner = Pick<Backend, "name" | "kernels">;

/** The body of `Backend.run`: checks the arguments against the op's contract, then runs its kernel. */
export function runOp<K extends OpName>(
  backend: KernelOwner,
  ledger: BufferLedger,
  name: K,
  args: ArgsOf<K>,
  scratch: Tensor | null,
): void {
  const kernel = kernelOf(backend, name);
  checkArgs(ledger, name, args);
  kernel.run(args, usedScratch(kernel, ledger, name, args, scratch));
}

/** The body of `Backend.prepare`. */
export function prepareOp<K extends OpName>(
  backend: KernelOwner,
  ledger: BufferLedger,
  name: K,
  args: ArgsOf<K>,
  scratch: Tensor | null,
  checked: boolean,
): () => void {
  const kernel = kernelOf(backend, name);
  if (checked) opNamed(name).validate?.(args);
  else checkArgs(ledger, name, args);
  const used = usedScratch(kernel, ledger, name, args, scratch);
  return kernel.prepare?.(args, used) ?? (() => kernel.run(args, used));
}

/** The scratch that a kernel gets: null if it needs none. Throws OP_ARGUMENT if it is too small. */
function usedScratch<K extends OpName>(
  kernel: Kernel<K>,
  ledger: BufferLedger,
  name: K,
  args: ArgsOf<K>,
  scratch: Tensor | null,
): Tensor | null {
  const needed = kernel.scratchBytes?.(args) ?? 0;
  if (needed === 0) return null;
  if (!scratch) throw broken({ name }, "scratch", `${needed} bytes`, "absent");
  ledger.checkRange(name, scratch.buffer, scratch.offset, spanBytes(scratch));
  if (spanBytes(scratch) < needed) throw broken({ name }, "scratch", `at least ${needed} bytes`, spanBytes(scratch));
  return scratch;
}

/** The body of `Backend.scratchBytes`. */
export function scratchBytesOf<K extends OpName>(backend: KernelOwner, name: K, args: ArgsOf<K>): number {
  return kernelOf(backend, name).scratchBytes?.(args) ?? 0;
}

/** The body of `Backend.wishes`. */
export function wishesOf<K extends OpName>(backend: KernelOwner, name: K, args: ArgsOf<K>): readonly Wish[] {
  return kernelOf(backend, name).wishes?.(args) ?? [];
}

function kernelOf<K extends OpName>(backend: KernelOwner, name: K): Kernel<K> {
  const entry: Kernel<K> | Unsupported = backend.kernels[name];
  if ("unsupported" in entry)
    throw new QdlError("OP_UNSUPPORTED", `${backend.name} has no kernel for ${name}: ${entry.unsupported}`, {
      details: { op: name, backend: backend.name },
    });
  return entry;
}

function checkArgs<K extends OpName>(ledger: BufferLedger, name: K, args: ArgsOf<K>): void {
  checkOp(opNamed(name), args);
  for (const { tensor } of tensorsOf(args)) ledger.checkRange(name, tensor.buffer, tensor.offset, spanBytes(tensor));
}
