// What opening a GPU refuses, and what its memory refuses, seen through libraries that are made up.

import { describe, expect, it } from "vitest";
import { CudaBackend } from "../../src/backends/cuda/cuda.ts";
import { CudaDevice } from "../../src/backends/cuda/device.ts";
import type { LoadedLibrary, WantedLibrary } from "../../src/backends/cuda/libraries.ts";
import { QdlError } from "../../src/errors.ts";

interface Machine {
  /** As the driver counts: 13000 for 13.0. */
  readonly cuda: number;
  readonly gpus: number;
  readonly capability: readonly [major: number, minor: number];
  /** Generations that NVRTC compiles for. */
  readonly archs: readonly number[];
  readonly freeBytes: number;
  readonly totalBytes: number;
  /** Codes of functions that fail. */
  readonly failing: Readonly<Record<string, number>>;
  /** A function that its library does not have. */
  readonly lacking: string | null;
}

const H100: Machine = {
  ...{ cuda: 13000, gpus: 1, capability: [9, 0], archs: [75, 80, 86, 89, 90, 100, 120] },
  ...{ freeBytes: 70e9, totalBytes: 80e9, failing: {}, lacking: null },
};
const [MULTIPROCESSORS, CLOCK_KHZ, MAJOR, MINOR] = [16, 13, 75, 76];

/** Libraries that answer as on such a machine; what is not asked for here succeeds and gives 1. */
function librariesOf(machine: Machine) {
  const attributes = new Map([
    [MAJOR, machine.capability[0]],
    [MINOR, machine.capability[1]],
    [MULTIPROCESSORS, 132],
    [CLOCK_KHZ, 1_980_000],
  ]);
  type Box = Int32Array | BigUint64Array | Uint8Array;
  const answers: Record<string, (...args: never[]) => void> = {
    cuDriverGetVersion: (box: Int32Array) => box.fill(machine.cuda),
    cuDeviceGetCount: (box: Int32Array) => box.fill(machine.gpus),
    cuDeviceGetAttribute: (box: Int32Array, attribute: number) => box.fill(attributes.get(attribute) ?? 1),
    cuDeviceGetName: (box: Uint8Array) => box.set(new TextEncoder().encode("Some GPU")),
    cuMemGetInfo_v2: (free: BigUint64Array, total: BigUint64Array) => {
      free.fill(BigInt(machine.freeBytes));
      total.fill(BigInt(machine.totalBytes));
    },
    nvrtcVersion: (major: Int32Array, minor: Int32Array) => {
      major.fill(12);
      minor.fill(4);
    },
    nvrtcGetNumSupportedArchs: (box: Int32Array) => box.fill(machine.archs.length),
    nvrtcGetSupportedArchs: (box: Int32Array) => box.set(machine.archs),
    cuGetErrorName: (_: number, box: string[]) => box.splice(0, 1, "CUDA_ERROR_NAME"),
    cuGetErrorString: (_: number, box: string[]) => box.splice(0, 1, "what went wrong"),
  };
  const func = (prototype: string) => {
    const name = /(\w+)\(/.exec(prototype)![1]!;
    if (name === machine.lacking) throw new Error(`Cannot find function '${name}'`);
    return (...args: Box[]) => {
      const code = machine.failing[name] ?? 0;
      if (code !== 0) return code;
      const answer = answers[name] as ((...given: Box[]) => void) | undefined;
      if (answer) answer(...args);
      else if (args[0] instanceof BigUint64Array) args[0][0] = 1n;
      return 0;
    };
  };
  return ({ names }: WantedLibrary): LoadedLibrary => ({ file: names[0]!, library: { func } as never });
}

const open = (machine: Partial<Machine>, index = 0) => new CudaDevice({ index }, librariesOf({ ...H100, ...machine }));

function errorOf(call: () => unknown): QdlError {
  try {
    call();
  } catch (error) {
    if (error instanceof QdlError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("a GPU", () => {
  it("opens where everything is there, with the rates of its kind", () => {
    const device = open({});
    expect([device.name, device.arch, device.libraries.length]).toEqual(["Some GPU", 90, 3]);
    // Half of 132 multiprocessors × 4096 operations a cycle × 1.98 GHz; PCIe 5.
    expect(device.rates.flopsPerSecond).toBeCloseTo(0.5 * 132 * 4096 * 1.98e9, -9);
    expect(device.rates.busBytesPerSecond).toBe(50e9);
    device.close();
  });

  it.each<[what: string, machine: Partial<Machine>, message: RegExp, hint: RegExp]>([
    ["of an old generation", { capability: [7, 5] }, /Some GPU is of generation sm_75, expected sm_80/, /newer GPU/],
    [
      "that NVRTC does not know",
      { capability: [12, 1], archs: [80, 90] },
      /NVRTC 12\.4 .*\(sm_121\); it knows 80, 90/,
      /pip/,
    ],
    ["of an old driver", { cuda: 11080 }, /runs CUDA 11\.8 at most, expected 12/, /version 525/],
    [
      "whose driver lacks a function",
      { lacking: "cuMemcpy2DAsync_v2" },
      /libcuda\.so\.1 has no cuMemcpy2DAsync_v2/,
      /Update/,
    ],
    ["whose NVRTC lacks one", { lacking: "nvrtcGetCUBIN" }, /libnvrtc\.so\.13 has no nvrtcGetCUBIN/, /12\.4/],
    ["whose cuBLASLt lacks one", { lacking: "cublasLtMatmul" }, /libcublasLt\.so\.13 has no cublasLtMatmul/, /12\.4/],
    ["that is not there", { failing: { cuInit: 100 } }, /no NVIDIA GPU/, /CUDA_VISIBLE_DEVICES/],
    ["of which only a stub is there", { failing: { cuInit: 34 } }, /stub/, /LD_LIBRARY_PATH/],
    ["without its fabric manager", { failing: { cuInit: 802 } }, /not ready/, /fabricmanager/],
    ["whose driver was replaced", { failing: { cuInit: 803 } }, /different versions/, /Reboot/],
    ["whose driver is for others", { failing: { cuInit: 804 } }, /other GPUs/, /compat/],
    ["whose driver does not start", { failing: { cuInit: 999 } }, /cannot start: .*999/, /nvidia-smi/],
    ["that another has for itself", { failing: { cuDevicePrimaryCtxRetain: 46 } }, /taken/, /--device/],
  ])("%s is refused with what to do", (_, machine, message, hint) => {
    const error = errorOf(() => open(machine));
    expect(error.code).toBe("BACKEND_UNAVAILABLE");
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(hint);
  });

  it("that does not exist is refused with how many there are", () => {
    const error = errorOf(() => open({ gpus: 2 }, 2));
    expect(error).toMatchObject({ code: "BACKEND_UNAVAILABLE", details: { index: 2, count: 2 } });
    expect(error.message).toMatch(/device is 2, expected a whole number below 2/);
  });
});

describe("memory of a GPU", () => {
  const OUT_OF_MEMORY = 2;

  it("that is taken is refused with the numbers, and so is the host's", () => {
    const backend = new CudaBackend(open({ failing: { cuMemAlloc_v2: OUT_OF_MEMORY, cuMemHostAlloc: OUT_OF_MEMORY } }));
    const device = errorOf(() => backend.alloc(75e9, "arena"));
    expect(device).toMatchObject({
      code: "MEMORY_EXCEEDED",
      details: { bytes: 75e9, label: "arena", allocatedBytes: 0 },
    });
    expect(device.message).toMatch(/75000000000 bytes for "arena" .*the GPU has 70000000000 bytes free of 80000000000/);
    expect(device.hint).toMatch(/--batch/);
    const host = errorOf(() => backend.alloc(1e12, "offloaded activations", "host"));
    expect(host.code).toBe("MEMORY_EXCEEDED");
    expect(host.message).toMatch(/1000000000000 bytes for "offloaded activations" .*the host has \d+ bytes available/);
    expect(backend.allocatedBytes).toBe(0);
  });

  it("is what the driver says, less what it loads later; the host's half is left alone", () => {
    const { availableBytes, overheadBytes, usedBytes, hostBytes } = new CudaBackend(open({})).memory();
    expect(availableBytes).toBe(70e9 - (192 << 20));
    expect(overheadBytes).toBe(10e9 + (192 << 20));
    expect(usedBytes).toBe(10e9);
    expect(hostBytes).toBeLessThanOrEqual(process.availableMemory());
    expect(hostBytes).toBeGreaterThan(0);
  });
});
