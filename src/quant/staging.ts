// Device memory that work passes through: one buffer that grows to the largest piece so far and is used again and again.

import type { Backend } from "../backends/backend.ts";
import type { ArgsOf, OpName } from "../ops/index.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";

/** One buffer that grows. It is replaced only after the work that uses it is done. */
export class Staging {
  readonly #backend: Backend;
  readonly #label: string;
  #buffer: DeviceBuffer | null = null;

  constructor(backend: Backend, label: string) {
    this.#backend = backend;
    this.#label = label;
  }

  /** Throws MEMORY_EXCEEDED. */
  async atLeast(bytes: number): Promise<DeviceBuffer> {
    if (this.#buffer && this.#buffer.bytes >= bytes) return this.#buffer;
    if (this.#buffer) await settle(this.#backend, this.#buffer);
    this.dispose();
    this.#buffer = this.#backend.alloc(bytes, this.#label);
    return this.#buffer;
  }

  dispose(): void {
    this.#buffer?.dispose();
    this.#buffer = null;
  }
}

/** Runs an op whose scratch comes from `scratch`. Throws MEMORY_EXCEEDED and what `Backend.run` throws. */
export async function runStaged<K extends OpName>(
  backend: Backend,
  scratch: Staging,
  op: K,
  args: ArgsOf<K>,
): Promise<void> {
  const bytes = backend.scratchBytes(op, args);
  backend.run(op, args, bytes === 0 ? null : matrix(await scratch.atLeast(bytes), "u8", 1, bytes));
}

/** Waits for all enqueued work: reading back is what waits. */
export async function settle(backend: Backend, buffer: DeviceBuffer): Promise<void> {
  await backend.read(buffer, 0, Math.min(1, buffer.bytes));
}
