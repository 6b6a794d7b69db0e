// A GPU that only plans: scratch and wishes of the cuda backend's kernels, memory of the size of one's choice, and no driver.

import type { Backend, DeviceMemory, DeviceRates, Planner } from "../../src/backends/backend.ts";
import { scratchBytesOf, wishesOf } from "../../src/backends/base.ts";
import type { CudaDevice } from "../../src/backends/cuda/device.ts";
import { kernelTable } from "../../src/backends/cuda/kernels.ts";
import { ratesOf } from "../../src/backends/cuda/rates.ts";
import { DECODED_BYTES } from "../../src/backends/cuda/weight-parts.ts";

/** Context, code and workspaces on an H100, as measured. */
const OVERHEAD_BYTES = 800 << 20;

export type PlanningGpu = Planner & Pick<Backend, "memory" | "allocatedBytes">;

/** An H100, with `bytes` of memory and as much on the host. */
export function planningGpu(bytes: number, rates: DeviceRates = ratesOf(90, 132, 1.98e9)): PlanningGpu {
  const device = {
    arch: 90,
    multiprocessors: 132,
    sharedBytesPerBlock: 232_448,
    l2Bytes: 50 << 20,
    decodedBytes: DECODED_BYTES,
  };
  const owner = { name: "cuda", kernels: kernelTable(device as unknown as CudaDevice) };
  return {
    readsMasters: true,
    rates,
    allocatedBytes: 0,
    memory: (): DeviceMemory => ({
      unified: false,
      availableBytes: bytes - OVERHEAD_BYTES,
      hostBytes: bytes,
      overheadBytes: OVERHEAD_BYTES,
      usedBytes: null,
    }),
    scratchBytes: (op, args) => scratchBytesOf(owner, op, args),
    wishes: (op, args) => wishesOf(owner, op, args),
  };
}
