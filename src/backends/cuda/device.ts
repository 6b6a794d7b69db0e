// One GPU, opened: its driver, context and stream, the kernels compiled for it, and the library of matrix products.

import { QdlError } from "../../errors.ts";
import type { OpName } from "../../ops/index.ts";
import type { DeviceRates } from "../backend.ts";
import { CopyStream } from "./copy-stream.ts";
import { CubinCache } from "./cubin-cache.ts";
import { CublasLt } from "./cublaslt.ts";
import { Driver } from "./driver.ts";
import { ArgumentBlock, type Arguments, earlyConfig } from "./launch.ts";
import { cublasLtLibrary, driverLibrary, loadLibrary, nvrtcLibrary } from "./libraries.ts";
import { type CudaFunction, type Defines, KernelModules } from "./modules.ts";
import { out32, out64, outText } from "./native-calls.ts";
import { Nvrtc } from "./nvrtc.ts";
import { ratesOf } from "./rates.ts";
import { TableMemory } from "./tables.ts";
import { Transfers } from "./transfers.ts";
import { TuningCache } from "./tuning.ts";
import { DECODED_BYTES } from "./weight-parts.ts";

/** CUDA versions whose libraries have the functions used here, the one to prefer first. */
const CUDA_MAJORS = [13, 12];
/** The first generation with bf16 tensor cores and asynchronous copies to shared memory. */
const OLDEST_ARCH = 80;
/** The first generation whose kernels can start before the one before them has ended. */
const FIRST_EARLY_ARCH = 90;
/** A stream that does not wait for the legacy default stream, and that can be captured. */
const STREAM_NON_BLOCKING = 1;

const ATTRIBUTES = {
  multiprocessors: 16,
  l2Bytes: 38,
  clockKhz: 13,
  majorVersion: 75,
  minorVersion: 76,
  sharedBytesPerBlock: 97,
} as const;

/** Enqueues what was prepared. */
export type Step = () => void;

/** Blocks in x, y, z; what is left out is 1. */
export type Grid = readonly [x: number, y?: number, z?: number];

/** Threads of a block in x and y; one number: in x. */
export type Threads = number | readonly [x: number, y: number];

export interface DeviceOptions {
  /** Number of the GPU among those that the process may use. Default: 0. */
  readonly index?: number;
  /** Take the first algorithm that cuBLASLt proposes, untimed, so that runs without a shared tuning cache agree. */
  readonly deterministic?: boolean;
  /** The most scratch that decoded weights of one product take. Default: 264 MiB. */
  readonly decodedBytes?: number;
}

export class CudaDevice {
  readonly driver: Driver;
  readonly name: string;
  /** 10·major + minor of the compute capability: 90 for H100. */
  readonly arch: number;
  readonly multiprocessors: number;
  readonly l2Bytes: number;
  /** The most shared memory that a block can ask for. */
  readonly sharedBytesPerBlock: number;
  /** The most scratch that decoded weights of one product take. */
  readonly decodedBytes: number;
  readonly stream: number;
  /** The driver, NVRTC and cuBLASLt: version and file of each. */
  readonly libraries: readonly string[];
  readonly products: CublasLt;
  readonly transfers: Transfers;
  readonly copies: CopyStream;
  readonly rates: DeviceRates;
  readonly tables: TableMemory;
  /** What is enqueued goes into a graph and is not run. */
  capturing = false;
  readonly modules: KernelModules;
  readonly #block = new ArgumentBlock();
  readonly #ordinal: number;
  /** The kernel launched last waits for those before it. */
  #lastWaits = false;
  #closed = false;

  /** Throws BACKEND_UNAVAILABLE with what is missing and what to do. `load` finds NVIDIA's libraries. */
  constructor(
    { index = 0, deterministic = false, decodedBytes = DECODED_BYTES }: DeviceOptions = {},
    load = loadLibrary,
  ) {
    this.decodedBytes = decodedBytes;
    if (process.platform !== "linux")
      throw new QdlError("BACKEND_UNAVAILABLE", `cuda: the system is ${process.platform}, expected linux`, {
        hint: "On Windows use WSL 2; elsewhere use --backend cpu.",
      });
    const driver = load(driverLibrary());
    this.driver = new Driver(driver);
    const { checked } = this.driver;
    checked.init(0);
    this.#ordinal = out32((box) => checked.deviceGet(box, existingIndex(this.driver, index)));
    const attribute = (key: keyof typeof ATTRIBUTES) =>
      out32((box) => checked.deviceGetAttribute(box, ATTRIBUTES[key], this.#ordinal));
    this.name = outText(128, (box) => checked.deviceGetName(box, box.byteLength, this.#ordinal));
    this.arch = 10 * attribute("majorVersion") + attribute("minorVersion");
    if (this.arch < OLDEST_ARCH) throw tooOld(this.name, this.arch);
    this.multiprocessors = attribute("multiprocessors");
    this.rates = ratesOf(this.arch, this.multiprocessors, 1000 * attribute("clockKhz"));
    this.l2Bytes = attribute("l2Bytes");
    this.sharedBytesPerBlock = attribute("sharedBytesPerBlock");

    const majors = loadableMajors(this.driver);
    const nvrtc = new Nvrtc(load(nvrtcLibrary(majors)));
    const target = compileTarget(nvrtc, this.arch, this.name);
    this.modules = new KernelModules(this.driver, nvrtc, new CubinCache(), target);
    const cublasLt = load(cublasLtLibrary(majors));

    // The primary context, current: cuBLASLt uses the runtime API inside, which looks for it there.
    checked.contextSetCurrent(out64((box) => checked.primaryContextRetain(box, this.#ordinal)));
    this.stream = out64((box) => checked.streamCreate(box, STREAM_NON_BLOCKING));
    this.products = new CublasLt(this.driver, this.stream, cublasLt, new TuningCache(`sm_${this.arch}`), deterministic);
    this.transfers = new Transfers(this.driver, this.stream);
    this.copies = new CopyStream(this.driver, this.stream);
    this.tables = new TableMemory(this.driver, this.transfers, this.stream, () => this.capturing);
    this.libraries = [
      `driver for CUDA ${driverVersion(this.driver)} (${driver.file})`,
      `NVRTC ${nvrtc.version} (${nvrtc.file})`,
      `cuBLASLt ${this.products.version} (${cublasLt.file})`,
    ];
  }

  /** Free and total bytes of the GPU as the driver reports them. */
  memory(): { freeBytes: number; totalBytes: number } {
    const totals = new BigUint64Array(1);
    const freeBytes = out64((box) => this.driver.checked.memGetInfo(box, totals));
    return { freeBytes, totalBytes: Number(totals[0]) };
  }

  /** A function of kernels/`file`, compiled with these macros. `sharedBytes`: dynamic shared memory of a block. */
  function(file: string, name: string, defines: Defines = {}, sharedBytes = 0): CudaFunction {
    return this.modules.function(file, name, defines, sharedBytes);
  }

  /** A launch, ready to be enqueued any number of times. An empty grid does nothing. */
  launch(kernel: CudaFunction, [x, y = 1, z = 1]: Grid, threads: Threads, args: Arguments): Step {
    if (x === 0 || y === 0 || z === 0) return () => {};
    const [threadsX, threadsY] = typeof threads === "number" ? [threads, 1] : threads;
    const image = args.image(this.#block.address);
    const { handle, sharedBytes } = kernel;
    const { launchKernel } = this.driver.raw;
    return () => {
      this.#block.load(image);
      const at = this.#block.address;
      const code = launchKernel(handle, x, y, z, threadsX, threadsY, 1, sharedBytes, this.stream, at, 0);
      this.#lastWaits = false;
      if (code !== 0) this.driver.fail(`launch of ${kernel.name}`, code);
    };
  }

  /**
   * The same for a kernel that calls `wait_for_kernels_before`: where the GPU can (sm_90 on), it starts while the one before it
   * ends. Before that wait it reads only frozen weights and adapters; as these are written by kernels that do not wait,
   * a launch behind such a kernel is a plain one.
   */
  launchEarly(kernel: CudaFunction, grid: Grid, threads: Threads, args: Arguments): Step {
    const [x, y = 1, z = 1] = grid;
    const plain = this.launch(kernel, grid, threads, args);
    if (x === 0 || y === 0 || z === 0) return plain;
    const image = args.image(this.#block.address);
    const { handle, sharedBytes } = kernel;
    const at = typeof threads === "number" ? ([threads, 1] as const) : threads;
    const shape = { grid: [x, y, z], threads: at, sharedBytes, stream: this.stream } as const;
    const config = earlyConfig(this.#block.configAddress, shape);
    const { launchKernelEx } = this.driver.raw;
    return () => {
      if (!this.#lastWaits || this.arch < FIRST_EARLY_ARCH) {
        plain();
      } else {
        this.#block.load(image);
        this.#block.loadConfig(config);
        const code = launchKernelEx(this.#block.configAddress, handle, this.#block.address, 0);
        if (code !== 0) this.driver.fail(`launch of ${kernel.name}`, code);
      }
      this.#lastWaits = true;
    };
  }

  /** Called before an op is enqueued: errors that the device reports later name it. */
  begin(op: OpName): void {
    if (this.#closed) throw new QdlError("TENSOR_STALE", `cuda: ${op} was run after the backend was disposed`);
    this.driver.lastOp = op;
  }

  /** Waits for the stream. Blocks the event loop: for the end, and for measuring. */
  synchronize(): void {
    this.driver.checked.streamSynchronize(this.stream);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.driver.raw.streamSynchronize(this.stream);
    this.tables.close();
    this.transfers.close();
    this.copies.close();
    this.products.close();
    this.modules.close();
    this.driver.raw.streamDestroy(this.stream);
    this.driver.raw.primaryContextRelease(this.#ordinal);
  }
}

function existingIndex(driver: Driver, index: number): number {
  const count = out32((box) => driver.checked.deviceGetCount(box));
  if (Number.isInteger(index) && index >= 0 && index < count) return index;
  throw new QdlError(
    "BACKEND_UNAVAILABLE",
    `cuda: device is ${index}, expected a whole number below ${count}, the GPUs that this process may use`,
    { hint: "`nvidia-smi -L` lists the GPUs; CUDA_VISIBLE_DEVICES may hide some.", details: { index, count } },
  );
}

function tooOld(name: string, arch: number): QdlError {
  return new QdlError(
    "BACKEND_UNAVAILABLE",
    `cuda: ${name} is of generation sm_${arch}, expected sm_${OLDEST_ARCH} (Ampere) or newer: it lacks bf16 tensor cores`,
    { hint: "Use a newer GPU, or --backend cpu.", details: { name, arch } },
  );
}

/** 13.1 as the driver counts: 13010. */
const driverVersion = (driver: Driver): number => {
  const version = out32((box) => driver.checked.driverGetVersion(box));
  return Math.floor(version / 1000) + (version % 1000) / 100;
};

/** CUDA versions whose code the driver runs. */
function loadableMajors(driver: Driver): number[] {
  const version = driverVersion(driver);
  const majors = CUDA_MAJORS.filter((major) => major <= Math.floor(version));
  if (majors.length > 0) return majors;
  throw new QdlError(
    "BACKEND_UNAVAILABLE",
    `cuda: the driver runs CUDA ${version} at most, expected ${CUDA_MAJORS.at(-1)} or newer`,
    { hint: "Update NVIDIA's driver to version 525 or newer.", details: { version } },
  );
}

/** What kernels are compiled for: the generation itself with its own instructions, or the last one before it that NVRTC knows. */
function compileTarget(nvrtc: Nvrtc, arch: number, name: string): string {
  const known = nvrtc.supportedArchs();
  const target = known
    .filter((candidate) => candidate <= arch && Math.floor(candidate / 10) === Math.floor(arch / 10))
    .at(-1);
  if (target === undefined)
    throw new QdlError(
      "BACKEND_UNAVAILABLE",
      `cuda: NVRTC ${nvrtc.version} (${nvrtc.file}) cannot compile for ${name} (sm_${arch}); it knows ${known.join(", ")}`,
      { hint: "Install a newer NVRTC: `pip install -U nvidia-cuda-nvrtc`.", details: { arch, known } },
    );
  return target === 90 ? "sm_90a" : `sm_${target}`;
}
