// Timing on a GPU, and one JSON line per measurement.

import type { CudaBackend } from "../src/backends/cuda/cuda.ts";

/** Seconds of one call, over about `seconds` after half of it to warm up. */
export function timedOn(backend: CudaBackend, step: () => void, seconds: number): number {
  const run = (count: number): number => {
    const began = performance.now();
    for (let i = 0; i < count; i++) step();
    backend.device.synchronize();
    return (performance.now() - began) / 1000 / count;
  };
  run(2);
  const count = Math.max(4, Math.ceil(seconds / run(4)));
  run(Math.ceil(count / 2));
  return run(count);
}

export const round = (value: number, unit = 10): number => Math.round(value * unit) / unit;

export function reportOn(backend: CudaBackend, line: Record<string, unknown>): void {
  process.stdout.write(`${JSON.stringify({ ...line, device: backend.description })}\n`);
}
