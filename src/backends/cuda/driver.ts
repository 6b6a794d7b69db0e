// The CUDA driver's own interface (libcuda), as far as it is needed. Calls of `checked` throw coded errors; those of `raw`
// return the driver's code, for callers that expect more than success.

import { QdlError } from "../../errors.ts";
import type { LoadedLibrary } from "./libraries.ts";
import { bind, checked, type NativeCalls } from "./native-calls.ts";

const PROTOTYPES = {
  init: "int cuInit(uint flags)",
  driverGetVersion: "int cuDriverGetVersion(void *version)",
  deviceGetCount: "int cuDeviceGetCount(void *count)",
  deviceGet: "int cuDeviceGet(void *device, int ordinal)",
  deviceGetName: "int cuDeviceGetName(void *name, int length, int device)",
  deviceGetAttribute: "int cuDeviceGetAttribute(void *value, int attribute, int device)",
  primaryContextRetain: "int cuDevicePrimaryCtxRetain(void *context, int device)",
  primaryContextRelease: "int cuDevicePrimaryCtxRelease_v2(int device)",
  contextSetCurrent: "int cuCtxSetCurrent(uint64 context)",
  memGetInfo: "int cuMemGetInfo_v2(void *free, void *total)",
  memAlloc: "int cuMemAlloc_v2(void *address, size_t bytes)",
  memFree: "int cuMemFree_v2(uint64 address)",
  memHostAlloc: "int cuMemHostAlloc(void *address, size_t bytes, uint flags)",
  memFreeHost: "int cuMemFreeHost(uint64 address)",
  memHostRegister: "int cuMemHostRegister_v2(uint64 address, size_t bytes, uint flags)",
  memHostUnregister: "int cuMemHostUnregister(uint64 address)",
  memcpyToDevice: "int cuMemcpyHtoDAsync_v2(uint64 to, uint64 from, size_t bytes, uint64 stream)",
  memcpyToHost: "int cuMemcpyDtoHAsync_v2(uint64 to, uint64 from, size_t bytes, uint64 stream)",
  memcpyOnDevice: "int cuMemcpyDtoDAsync_v2(uint64 to, uint64 from, size_t bytes, uint64 stream)",
  memcpyBetween: "int cuMemcpyAsync(uint64 to, uint64 from, size_t bytes, uint64 stream)",
  memcpy2d: "int cuMemcpy2DAsync_v2(const void *description, uint64 stream)",
  memset: "int cuMemsetD8Async(uint64 to, uint8 value, size_t bytes, uint64 stream)",
  moduleLoadData: "int cuModuleLoadData(void *module, const void *image)",
  moduleUnload: "int cuModuleUnload(uint64 module)",
  moduleGetFunction: "int cuModuleGetFunction(void *function, uint64 module, const char *name)",
  functionSetAttribute: "int cuFuncSetAttribute(uint64 function, int attribute, int value)",
  tensorMapEncodeTiled:
    "int cuTensorMapEncodeTiled(uint64 map, int type, uint rank, uint64 address, const void *dims, const void *strides, const void *box, const void *steps, int interleave, int swizzle, int promotion, int fill)",
  launchKernel:
    "int cuLaunchKernel(uint64 function, uint gx, uint gy, uint gz, uint bx, uint by, uint bz, uint sharedBytes, uint64 stream, uint64 parameters, uint64 extra)",
  launchKernelEx: "int cuLaunchKernelEx(uint64 config, uint64 function, uint64 parameters, uint64 extra)",
  streamCreate: "int cuStreamCreate(void *stream, uint flags)",
  streamDestroy: "int cuStreamDestroy_v2(uint64 stream)",
  streamWaitEvent: "int cuStreamWaitEvent(uint64 stream, uint64 event, uint flags)",
  streamSynchronize: "int cuStreamSynchronize(uint64 stream)",
  eventCreate: "int cuEventCreate(void *event, uint flags)",
  eventDestroy: "int cuEventDestroy_v2(uint64 event)",
  eventRecord: "int cuEventRecord(uint64 event, uint64 stream)",
  eventQuery: "int cuEventQuery(uint64 event)",
  eventSynchronize: "int cuEventSynchronize(uint64 event)",
  eventElapsedTime: "int cuEventElapsedTime(void *milliseconds, uint64 start, uint64 end)",
  streamBeginCapture: "int cuStreamBeginCapture_v2(uint64 stream, int mode)",
  streamEndCapture: "int cuStreamEndCapture(uint64 stream, void *graph)",
  graphInstantiate: "int cuGraphInstantiateWithFlags(void *executable, uint64 graph, uint64 flags)",
  graphLaunch: "int cuGraphLaunch(uint64 executable, uint64 stream)",
  graphDestroy: "int cuGraphDestroy(uint64 graph)",
  graphExecDestroy: "int cuGraphExecDestroy(uint64 executable)",
} as const;

export type DriverCalls = NativeCalls<typeof PROTOTYPES>;

/** CUresult codes that callers tell apart. */
export const OUT_OF_MEMORY = 2;
export const NOT_READY = 600;
/** What opening may give, and what to do about it. */
const UNUSABLE: Readonly<Record<number, readonly [what: string, hint: string]>> = {
  34: [
    "the libcuda that was found is the toolkit's stub",
    "Let the loader find the driver's own libcuda.so.1: take folders named `stubs` out of LD_LIBRARY_PATH and CUDA_LIBRARY_PATH.",
  ],
  46: [
    "the GPU is taken",
    "Another process has it for itself (`nvidia-smi` shows it): end that one, choose another GPU with --device, or `nvidia-smi -c DEFAULT`.",
  ],
  100: [
    "the driver finds no NVIDIA GPU that this process may use",
    "Check `nvidia-smi`, and that CUDA_VISIBLE_DEVICES does not hide every GPU.",
  ],
  802: [
    "the system is not ready",
    "Start NVIDIA's fabric manager (`systemctl start nvidia-fabricmanager`), and try again.",
  ],
  803: [
    "the driver's library and its kernel module are of different versions",
    "Reboot, or load the module of the installed driver; in a container, restart it.",
  ],
  804: [
    "the libcuda that was found is made for other GPUs",
    "Take folders named `compat` out of LD_LIBRARY_PATH and CUDA_LIBRARY_PATH.",
  ],
};
const INVALID_IMAGE = [200, 209, 222, 223];
const ECC_UNCORRECTABLE = 214;
/** The kernel broke: its context, and so this process's use of the device, is lost. */
const KERNEL_FAULTS = [700, 702, 714, 715, 716, 717, 718, 719];

/** Thrown by what cannot be part of a graph, as it depends on the host at every run. */
export class Uncapturable extends Error {}

export class Driver {
  readonly raw: DriverCalls;
  readonly checked: DriverCalls;
  readonly #errorText: (call: string, code: number) => string;
  /** What was enqueued last, as errors that show later name it. */
  lastOp: string | null = null;

  constructor(loaded: LoadedLibrary) {
    this.raw = bind(loaded, PROTOTYPES);
    this.checked = checked(this.raw, (call, code) => this.fail(call, code));
    const texts = ["cuGetErrorName", "cuGetErrorString"].map((name) =>
      loaded.library.func(`int ${name}(int code, _Out_ const char **text)`),
    );
    this.#errorText = (call, code) => {
      const [name, text] = texts.map((get) => {
        const box: (string | null)[] = [null];
        return get(code, box) === 0 ? box[0] : null;
      });
      return `${call}: ${text ?? "unknown error"} (${name ?? "no name"}, ${code})`;
    };
  }

  /** Throws what a code of the driver means to the user. */
  fail(call: string, code: number): never {
    const text = this.#errorText(call, code);
    const details = { call, code, lastOp: this.lastOp };
    const unusable = UNUSABLE[code];
    if (unusable)
      throw new QdlError("BACKEND_UNAVAILABLE", `cuda: ${unusable[0]}: ${text}`, { hint: unusable[1], details });
    if (call === "init")
      throw new QdlError("BACKEND_UNAVAILABLE", `cuda: the driver cannot start: ${text}`, {
        hint: "Check `nvidia-smi`; if it fails too, reinstall NVIDIA's driver and reboot.",
        details,
      });
    if (INVALID_IMAGE.includes(code))
      throw new QdlError("BACKEND_UNAVAILABLE", `cuda: the driver does not accept a compiled kernel: ${text}`, {
        hint: "Update NVIDIA's driver, or install an NVRTC of the CUDA version that `nvidia-smi` shows.",
        details,
      });
    const after = this.lastOp === null ? "" : `; enqueued last was ${this.lastOp}`;
    throw new QdlError("DEVICE_FAILED", `cuda: ${text}${after}`, { hint: hintFor(code), details });
  }
}

function hintFor(code: number): string {
  if (code === OUT_OF_MEMORY)
    return "The driver itself ran out of GPU memory: leave it some with a smaller --memory, or end other processes on this GPU.";
  if (code === ECC_UNCORRECTABLE)
    return "The GPU's memory is failing: resume from the last checkpoint on another GPU, and look at `nvidia-smi -q -d ECC`.";
  if (KERNEL_FAULTS.includes(code))
    return "Resume from the last checkpoint. If it happens again, run with CUDA_LAUNCH_BLOCKING=1, which names the op exactly, and report it.";
  return "Resume from the last checkpoint; look at `nvidia-smi` and the system's log for what the driver says.";
}
