// The oracle: host memory and the ops' own references as kernels. Exact and slow; used only when it is asked for by name.

import { type ArgsOf, OPS, type OpName } from "../../ops/index.ts";
import { HostBuffer } from "../../tensor/host.ts";
import type { DeviceBuffer, Tensor } from "../../tensor/tensor.ts";
import type { Backend, DeviceMemory, DeviceRates, KernelTable, Wish } from "../backend.ts";
import { BufferLedger, prepareOp, runOp, scratchBytesOf, wishesOf } from "../base.ts";

export class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly description = "reference: plain TypeScript in double precision, one thread";
  readonly instructionSet = "f64";
  readonly computeDtype = "f32";
  readonly readsMasters = false;
  readonly rates: DeviceRates | null = null;
  readonly kernels: KernelTable = referenceKernels();
  readonly #ledger = new BufferLedger("reference");

  get allocatedBytes(): number {
    return this.#ledger.allocatedBytes;
  }

  get peakBytes(): number {
    return this.#ledger.peakBytes;
  }

  alloc(bytes: number, label: string): HostBuffer {
    return this.#ledger.add(bytes, label, () => new HostBuffer(bytes, label, (buffer) => this.#ledger.remove(buffer)));
  }

  memory(): DeviceMemory {
    return {
      unified: true,
      availableBytes: Number.POSITIVE_INFINITY,
      hostBytes: 0,
      overheadBytes: 0,
      usedBytes: null,
    };
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.#bytes("write", buffer, offset, bytes.byteLength).set(bytes);
  }

  async read(buffer: DeviceBuffer, offset: number, bytes: number): Promise<Uint8Array> {
    return this.#bytes("read", buffer, offset, bytes).slice();
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

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ledger.close();
  }

  #bytes(what: string, buffer: DeviceBuffer, offset: number, bytes: number): Uint8Array {
    this.#ledger.checkRange(what, buffer, offset, bytes);
    return new Uint8Array((buffer as HostBuffer).data, offset, bytes);
  }
}

/** Each op's reference takes the arguments of a kernel; no scratch. */
function referenceKernels(): KernelTable {
  const entries = Object.entries(OPS).map(([name, op]) => [name, { run: op.reference }]);
  return Object.fromEntries(entries) as KernelTable;
}
