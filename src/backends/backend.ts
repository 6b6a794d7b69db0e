// What a backend is: memory of one device, and one kernel per op of the table. What it is NOT: it plans nothing, owns no
// tensor, keeps no graph, chooses no numerics beyond the op's contract, and never falls back to another implementation.

import type { ArgsOf, OpName } from "../ops/index.ts";
import type { DType } from "../tensor/dtype.ts";
import type { DeviceBuffer, Tensor } from "../tensor/tensor.ts";

export interface Kernel<K extends OpName> {
  /** Enqueues the op. Ordered after all earlier calls; returns at once or after the work. Arguments are already checked. */
  run(args: ArgsOf<K>, scratch: Tensor | null): void;
  /** The same call with its arguments turned into what the device reads, to be repeated at little cost. Absent: `run`. */
  prepare?(args: ArgsOf<K>, scratch: Tensor | null): () => void;
  /** Bytes of scratch that `run` needs for these shapes (contents of tensors are not looked at). Absent: none. */
  scratchBytes?(args: ArgsOf<K>): number;
  /** Where `run` is fastest with its tensors (shapes are looked at, not places). A wish: `run` works anywhere. Absent: none. */
  wishes?(args: ArgsOf<K>): readonly Wish[];
}

/** Tensors of one argument as column blocks of one matrix, in order, and behind them spare columns for the call's own use. */
export interface Wish {
  /** The argument: a tensor, or a list of them. */
  readonly beside: string;
  /** The argument that the spare columns become, of access "spare". */
  readonly tail: string;
  readonly tailColumns: number;
}

/** A kernel that does not exist, as data with a reason. */
export interface Unsupported {
  readonly unsupported: string;
}

/** Exactly one entry per op: a missing kernel is a compile error. */
export type KernelTable = { readonly [K in OpName]: Kernel<K> | Unsupported };

/** What a device says of its memory. */
export interface DeviceMemory {
  /** The host's memory is the device's: nothing is gained by moving a buffer to the host. */
  readonly unified: boolean;
  /** Bytes that further buffers may take now; Infinity where nobody knows. */
  readonly availableBytes: number;
  /** Bytes that will be taken beside buffers: the driver's context, code, libraries' workspaces. */
  readonly overheadBytes: number;
  /** Bytes that buffers may take of the host's memory, where it is not the device's: what leaves the system enough. */
  readonly hostBytes: number;
  /** Bytes taken now, by buffers and beside them, as the device reports it; null where the process's own memory tells. */
  readonly usedBytes: number | null;
}

/** Choices that a device makes by timing, and that change bits. */
export interface Tuning {
  /** How many were made. */
  readonly size: number;
  /** All of them as text. */
  save(): string;
  /** Takes over what was saved: a run that goes on, or is repeated, then gives the same bits. Throws CHECKPOINT_INVALID. */
  load(text: string): void;
}

/** A list of prepared calls, to be run again and again. */
export interface Recording {
  run(): void;
  /** Gives back what the device keeps for it. */
  dispose(): void;
}

/** What a memory plan asks of a backend. */
export type Planner = Pick<Backend, "scratchBytes" | "wishes" | "readsMasters" | "rates">;

/** How fast a device is as far as plans weigh one way against another: of its kind, not timed, so that equal machines plan alike. */
export interface DeviceRates {
  /** Of products in the compute dtype, as the linears of a layer reach them. */
  readonly flopsPerSecond: number;
  /** Of copies between the device's memory and the host's. */
  readonly busBytesPerSecond: number;
}

/** `host`: memory of the host that the device reads and writes across its bus; the same as `device` where the host computes. */
export type Placement = "device" | "host";

export interface Backend extends AsyncDisposable {
  readonly name: string;
  /** One line for people and provenance: device, instruction set, threads. */
  readonly description: string;
  /** Libraries of others that are in use, each with its version and where it was found. */
  readonly libraries?: readonly string[];
  /** What changes bits between machines ("avx512bf16"); part of the resume check. */
  readonly instructionSet: string;
  /** The fastest dtype of activations here. */
  readonly computeDtype: Extract<DType, "bf16" | "f32">;
  /** The linears round an adapter's f32 masters as they read them, at no cost worth a copy of A and B in the compute dtype. */
  readonly readsMasters: boolean;
  /**
   * Lists are run on a multiple of this many rows, the last of them padding that no segment has: packed data then comes in few
   * shapes, each bound and timed once, and on whole tiles. Absent: on the rows that there are.
   */
  readonly rowGranule?: number;
  /** null: its memory is the host's, so that nothing is gained by copying there. */
  readonly rates: DeviceRates | null;
  readonly kernels: KernelTable;
  /** Bytes now held by live buffers, and the most ever held. */
  readonly allocatedBytes: number;
  readonly peakBytes: number;
  /** Zeroed memory, 64-byte aligned, owned by the caller; by default on the device. Throws MEMORY_EXCEEDED with the numbers. */
  alloc(bytes: number, label: string, placement?: Placement): DeviceBuffer;
  /** What the device says of its memory now. */
  memory(): DeviceMemory;
  /** Copies bytes into a buffer; ordered after all enqueued ops. */
  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void;
  /** Waits for all enqueued ops and copies bytes out: the caller's own, in memory aligned for every dtype. */
  read(buffer: DeviceBuffer, offset: number, bytes: number): Promise<Uint8Array>;
  /** Checks the arguments against the op's contract, then runs its kernel. Throws OP_ARGUMENT, OP_UNSUPPORTED, TENSOR_STALE. */
  run<K extends OpName>(op: K, args: ArgsOf<K>, scratch?: Tensor | null): void;
  /**
   * Checks a call once and returns it ready to repeat, on the same tensors, whose buffers must outlive it. With `checked`
   * the signature is not checked again: for callers that bind the same list to fewer rows than it was checked with.
   * Throws as `run` does.
   */
  prepare<K extends OpName>(op: K, args: ArgsOf<K>, scratch: Tensor | null, checked?: boolean): () => void;
  /** Absent where nothing is chosen by timing. */
  readonly tuning?: Tuning;
  /** Takes prepared calls as one list, which the device may learn to run as a whole. Absent: they are run one by one. */
  record?(calls: readonly (() => void)[]): Recording;
  /** FLOP/s that a loop in registers reaches on this device: what products of this dtype could reach at most. */
  measurePeak?(dtype: Extract<DType, "bf16" | "f32">): number;
  /** Scratch bytes of one call; 0 if none. */
  scratchBytes<K extends OpName>(op: K, args: ArgsOf<K>): number;
  /** What one call wishes of the places of its tensors. */
  wishes<K extends OpName>(op: K, args: ArgsOf<K>): readonly Wish[];
}
