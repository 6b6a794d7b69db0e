// How fast a GPU is, from what its driver says of its kind.

import type { DeviceRates } from "../backend.ts";

/** Operations of bf16 tensor cores, summed in f32, that a multiprocessor does in a cycle (NVIDIA's white papers). */
const FLOPS_PER_CYCLE: Readonly<Record<number, number>> = { 80: 2048, 90: 4096, 100: 8192, 103: 8192 };
/** Of the other generations, whose cards for workstations do up to twice as much. */
const LEAST_FLOPS_PER_CYCLE = 512;
/** Of that, what a layer reaches, all that is no product included (docs/log.md). */
const REACHED = 0.5;

/** Of page-locked copies over 16 lanes: PCIe 4 before Hopper, PCIe 5 since, except on Ada. */
const PCIE_4 = 25e9;
const PCIE_5 = 50e9;

/** @param clockHz of the multiprocessors, at most */
export function ratesOf(arch: number, multiprocessors: number, clockHz: number): DeviceRates {
  return {
    flopsPerSecond: REACHED * (FLOPS_PER_CYCLE[arch] ?? LEAST_FLOPS_PER_CYCLE) * multiprocessors * clockHz,
    busBytesPerSecond: arch >= 90 ? PCIE_5 : PCIE_4,
  };
}
