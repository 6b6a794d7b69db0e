// How many threads this process may really use: the cores it may run on, and the CPU quota of its control group.

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

export function defaultThreads(): number {
  return Math.max(1, Math.min(availableParallelism(), Math.ceil(quotaCores())));
}

/** Cores that the control group's quota grants; ∞ without one. */
function quotaCores(): number {
  const path = /^0::(.*)$/m.exec(textOf("/proc/self/cgroup") ?? "")?.[1] ?? "/";
  const folders = path.split("/").filter(Boolean);
  let cores = Number.POSITIVE_INFINITY;
  for (let depth = folders.length; depth >= 0; depth--) {
    const folder = ["/sys/fs/cgroup", ...folders.slice(0, depth)].join("/");
    cores = Math.min(cores, coresOf(textOf(`${folder}/cpu.max`)?.split(" ")));
  }
  const first = "/sys/fs/cgroup/cpu/cpu.cfs";
  return Math.min(cores, coresOf([textOf(`${first}_quota_us`), textOf(`${first}_period_us`)]));
}

function coresOf(pair: readonly (string | undefined)[] | undefined): number {
  const cores = Number(pair?.[0]) / Number(pair?.[1]);
  return cores > 0 ? cores : Number.POSITIVE_INFINITY;
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return undefined;
  }
}
