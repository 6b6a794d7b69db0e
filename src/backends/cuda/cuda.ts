// The CUDA backend: one NVIDIA GPU, driven through its driver, NVRTC and cuBLASLt. Ops are enqueued on one stream and
// return at once; errors of the device show at a later call and name the op that was enqueued last.

import { QdlError } from "../../errors.ts";
import type { ArgsOf, OpName } from "../../ops/index.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Backend, DeviceMemory, DeviceRates, KernelTable, Placement, Recording, Wish } from "../backend.ts";
import { BufferLedger, prepareOp, runOp, scratchBytesOf, wishesOf } from "../base.ts";
import { CudaBuffer } from "./buffer.ts";
import { CudaDevice, type DeviceOptions } from "./device.ts";
import { OUT_OF_MEMORY } from "./driver.ts";
import { kernelTable } from "./kernels.ts";
import { sustainedProduct } from "./peak.ts";
import { GraphRecording } from "./recording.ts";
import type { TuningCache } from "./tuning.ts";
import { loadTuning, saveTuning, tuningFile } from "./tuning-file.ts";

const HOST_ALLOC_PORTABLE = 1;
/** Code of kernels, and cuBLASLt's, that comes to the device when first used. */
const LOADED_LATER = 192 << 20;
/** Page-locked memory cannot be paged out: a system that has too much of it comes to a standstill. */
const LOCKABLE_SHARE = 0.5;

export interface CudaOptions extends DeviceOptions {
  /** The most bytes that buffers may take. Default: what the GPU has. */
  readonly memoryBytes?: number;
}

/** Opens the backend. Throws BACKEND_UNAVAILABLE with what is missing, where it was looked for, and what to do. */
export async function openCuda({ memoryBytes, ...options }: CudaOptions = {}): Promise<CudaBackend> {
  return new CudaBackend(new CudaDevice(options), memoryBytes);
}

export class CudaBackend implements Backend {
  readonly name = "cuda";
  readonly description: string;
  readonly libraries: readonly string[];
  readonly instructionSet: string;
  readonly computeDtype = "bf16";
  readonly readsMasters = true;
  /** Rows of a tile of the libraries' products. */
  readonly rowGranule = 128;
  readonly rates: DeviceRates;
  readonly kernels: KernelTable;
  readonly device: CudaDevice;
  readonly tuning: TuningCache;
  readonly #ledger: BufferLedger;
  /** Algorithms that were known at the start; without end where none is to be kept. */
  readonly #known: number;
  /** Of the allocated bytes, those in host memory. */
  #pagedBytes = 0;

  constructor(device: CudaDevice, memoryBytes?: number) {
    this.device = device;
    this.instructionSet = `sm_${device.arch}`;
    const gib = (device.memory().totalBytes / 2 ** 30).toFixed(0);
    this.description = `${device.name}, ${this.instructionSet}, ${gib} GiB`;
    this.rates = device.rates;
    this.libraries = device.libraries;
    this.tuning = device.products.tuning;
    if (!device.products.deterministic) loadTuning(this.tuning, tuningFile(device.name));
    this.#known = device.products.deterministic ? Number.POSITIVE_INFINITY : this.tuning.size;
    this.kernels = kernelTable(device);
    this.#ledger = new BufferLedger("cuda", memoryBytes, () => freeText(device));
  }

  get allocatedBytes(): number {
    return this.#ledger.allocatedBytes;
  }

  get peakBytes(): number {
    return this.#ledger.peakBytes;
  }

  alloc(bytes: number, label: string, placement: Placement = "device"): CudaBuffer {
    const allocate = () => {
      const address = this.#allocate(bytes, placement);
      const paged = placement === "host" ? bytes : 0;
      this.#pagedBytes += paged;
      const forget = (buffer: CudaBuffer): void => {
        this.#pagedBytes -= paged;
        this.#ledger.remove(buffer);
      };
      return new CudaBuffer(address, bytes, label, (at) => this.#free(at, placement), forget);
    };
    return this.#ledger.add(bytes, label, allocate, placement === "host" ? hostFreeText : undefined);
  }

  /** What is free, less what the driver and cuBLASLt load at their first use of a kernel. */
  memory(): DeviceMemory {
    const { freeBytes, totalBytes } = this.device.memory();
    const onDevice = this.allocatedBytes - this.#pagedBytes;
    return {
      unified: false,
      availableBytes: Math.max(0, freeBytes - LOADED_LATER),
      hostBytes: Math.floor(LOCKABLE_SHARE * process.availableMemory()),
      overheadBytes: Math.max(0, totalBytes - freeBytes - onDevice) + LOADED_LATER,
      usedBytes: totalBytes - freeBytes,
    };
  }

  /** FLOP/s of a large cuBLASLt product under sustained load. */
  measurePeak(dtype: "f32" | "bf16"): number {
    return sustainedProduct(this.device, dtype, this);
  }

  write(buffer: CudaBuffer, offset: number, bytes: Uint8Array): void {
    this.#ledger.checkRange("write", buffer, offset, bytes.byteLength);
    this.device.copies.awaitAll();
    this.device.transfers.write(buffer.address + offset, bytes);
  }

  async read(buffer: CudaBuffer, offset: number, bytes: number): Promise<Uint8Array> {
    this.#ledger.checkRange("read", buffer, offset, bytes);
    this.device.copies.awaitAll();
    return bytes === 0 ? new Uint8Array(0) : this.device.transfers.read(buffer.address + offset, bytes);
  }

  run<K extends OpName>(op: K, args: ArgsOf<K>, scratch: Tensor | null = null): void {
    runOp(this, this.#ledger, op, args, scratch);
  }

  prepare<K extends OpName>(op: K, args: ArgsOf<K>, scratch: Tensor | null, checked = false): () => void {
    return prepareOp(this, this.#ledger, op, args, scratch, checked);
  }

  record(calls: readonly (() => void)[]): Recording {
    return new GraphRecording(this.device, calls);
  }

  scratchBytes<K extends OpName>(op: K, args: ArgsOf<K>): number {
    return scratchBytesOf(this, op, args);
  }

  wishes<K extends OpName>(op: K, args: ArgsOf<K>): readonly Wish[] {
    return wishesOf(this, op, args);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ledger.close();
    if (this.tuning.size > this.#known) saveTuning(this.tuning, tuningFile(this.device.name));
    this.device.close();
  }

  /** Zeroed. Throws a plain error where there is no memory: the ledger adds the numbers. */
  #allocate(bytes: number, placement: Placement): number {
    const { driver, stream } = this.device;
    const size = Math.max(1, bytes);
    const box = new BigUint64Array(1);
    // Page-locked host memory has one address for both sides.
    const code =
      placement === "device" ? driver.raw.memAlloc(box, size) : driver.raw.memHostAlloc(box, size, HOST_ALLOC_PORTABLE);
    if (code === OUT_OF_MEMORY) throw new Error(`there is no more memory of the ${placement}`);
    if (code !== 0) driver.fail(`alloc on the ${placement}`, code);
    const address = Number(box[0]);
    driver.checked.memset(address, 0, size, stream);
    return address;
  }

  /** Waits first: the stream may still use the memory. A device that failed frees it with the context. */
  #free(address: number, placement: Placement): void {
    const { raw } = this.device.driver;
    this.device.copies.settle();
    raw.streamSynchronize(this.device.stream);
    if (placement === "device") raw.memFree(address);
    else raw.memFreeHost(address);
  }
}

const hostFreeText = (): string => `; the host has ${process.availableMemory()} bytes available`;

function freeText(device: CudaDevice): string {
  try {
    const { freeBytes, totalBytes } = device.memory();
    return `; the GPU has ${freeBytes} bytes free of ${totalBytes}`;
  } catch (error) {
    if (error instanceof QdlError) return "";
    throw error;
  }
}
