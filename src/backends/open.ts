// The only place that names concrete backends.

import { QdlError } from "../errors.ts";
import type { Backend } from "./backend.ts";

export interface OpenOptions {
  /** Threads of the cpu backend; default: the cores this process may use. */
  readonly threads?: number;
  /** Instruction set of the cpu backend; default: the best one that this machine has. */
  readonly isa?: string;
  /** Number of the GPU of the cuda backend; default: 0. */
  readonly device?: number;
  /** cuda: take the libraries' first choice of algorithms, untimed. */
  readonly deterministic?: boolean;
  /** cuda: the most bytes that buffers may take; default: what the GPU has. */
  readonly memoryBytes?: number;
}

/** Each is imported when it is asked for, so that one that needs a native library costs nothing elsewhere. */
const OPENERS = {
  reference: async (): Promise<Backend> => new (await import("./reference/reference.ts")).ReferenceBackend(),
  cpu: async (options: OpenOptions): Promise<Backend> => (await import("./cpu/cpu.ts")).openCpu(options),
  cuda: async ({ device, ...options }: OpenOptions): Promise<Backend> =>
    (await import("./cuda/cuda.ts")).openCuda({ ...options, ...(device === undefined ? {} : { index: device }) }),
} as const satisfies Record<string, (options: OpenOptions) => Promise<Backend>>;

export type BackendName = keyof typeof OPENERS;

export const BACKEND_NAMES = Object.keys(OPENERS) as BackendName[];

/** Opens a device. Throws BACKEND_UNAVAILABLE if it cannot: there is no fallback to another one. */
export async function openBackend(name: BackendName, options: OpenOptions = {}): Promise<Backend> {
  const open = Object.hasOwn(OPENERS, name) ? OPENERS[name] : undefined;
  if (!open)
    throw new QdlError("BACKEND_UNAVAILABLE", `backend is "${name}", expected one of: ${BACKEND_NAMES.join(", ")}`, {
      hint: `Choose one of: ${BACKEND_NAMES.join(", ")}.`,
      details: { name, known: BACKEND_NAMES },
    });
  return open(options);
}
