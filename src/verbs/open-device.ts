// A device as a user names it.

import type { Backend } from "../backends/backend.ts";
import { type BackendName, openBackend } from "../backends/open.ts";
import { throwProblems } from "./problems.ts";

export interface DeviceSettings {
  /** Default: cpu. */
  readonly backend?: BackendName;
  /** CPU threads. Default: all cores that this process may use. */
  readonly threads?: number;
  /** Instruction set of the CPU backend. Default: the best that this machine has. */
  readonly isa?: string;
  /** Number of the GPU of the cuda backend. Default: 0. */
  readonly device?: number;
  /** cuda: take the library's first choice of algorithms instead of timing them. Default: false. */
  readonly deterministic?: boolean;
}

/** Throws CONFIG_INVALID, BACKEND_UNAVAILABLE. The caller disposes it. */
export async function openDevice({
  backend = "cpu",
  threads,
  isa,
  device,
  deterministic,
}: DeviceSettings): Promise<Backend> {
  if (threads !== undefined && !(Number.isSafeInteger(threads) && threads >= 1))
    throwProblems("device", [{ key: "threads", got: threads, expected: "a whole number from 1" }]);
  return openBackend(backend, {
    ...(threads === undefined ? {} : { threads }),
    ...(isa === undefined || isa === "auto" ? {} : { isa }),
    ...(device === undefined ? {} : { device }),
    ...(deterministic === undefined ? {} : { deterministic }),
  });
}
