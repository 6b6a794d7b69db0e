// What a run takes of this machine's memory beside the buffers that are planned: Node itself, and what it grows by.

import { readFileSync } from "node:fs";
import { CHUNK_BYTES } from "../quant/chunks.ts";

/**
 * By how much the process grows beside planned buffers, whatever the model: JavaScript heap (plan, bound steps, samples on
 * their way, garbage between two collections), compiled code, the kernels' workspaces. Measured: 50–80 MB (docs/log.md).
 */
const GROWTH_BYTES = 56 << 20;

/** Bytes of this process so far, plus what it will grow by. Ask before anything is loaded. */
export const hostBytes = (): number => process.memoryUsage.rss() + GROWTH_BYTES;

/**
 * Most bytes on the way while a base is loaded: two chunks on the host, one on the device (f16 takes twice its size as f32),
 * and the block scales of the largest weight (`values` of it).
 */
export const loadingBytes = (values: number): number => 4 * CHUNK_BYTES + Math.ceil(values / 64) * 4;

/** Largest resident memory of this process so far; where the system does not tell, the memory now. */
export function peakResidentBytes(): number {
  try {
    const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    if (line) return 1024 * Number(line[1]);
  } catch {
    // Not Linux.
  }
  return process.memoryUsage.rss();
}
