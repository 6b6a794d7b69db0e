// Memory of the CPU backend: outside the JavaScript heap, at an address that never moves.

import { QdlError } from "../../errors.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import { type DeviceBuffer, spanBytes, type Tensor } from "../../tensor/tensor.ts";
import type { NativeLibrary } from "./ffi.ts";

export class CpuBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly label: string;
  readonly #library: NativeLibrary;
  readonly #onDispose: (buffer: CpuBuffer) => void;
  #address: number;

  /** Throws if there is no memory. */
  constructor(library: NativeLibrary, bytes: number, label: string, onDispose: (buffer: CpuBuffer) => void) {
    this.bytes = bytes;
    this.label = label;
    this.#library = library;
    this.#onDispose = onDispose;
    this.#address = library.alloc(bytes);
    if (this.#address === 0) throw new Error("the system has no more memory");
  }

  get disposed(): boolean {
    return this.#address === 0;
  }

  get address(): number {
    if (this.#address === 0)
      throw new QdlError("TENSOR_STALE", `buffer "${this.label}" was used after it was released`);
    return this.#address;
  }

  dispose(): void {
    if (this.#address === 0) return;
    this.#library.free(this.#address, this.bytes);
    this.#address = 0;
    this.#onDispose(this);
  }
}

/** Address of a tensor's first element. Throws OP_ARGUMENT unless it is on a whole element of this backend's memory. */
export function addressOf(tensor: Tensor): number {
  const { buffer, offset } = tensor;
  if (!(buffer instanceof CpuBuffer))
    throw new QdlError("OP_ARGUMENT", `cpu: a tensor lies in "${buffer.label}", expected memory of the cpu backend`);
  if (offset % BYTES_PER_ELEMENT[tensor.dtype] !== 0 || offset + spanBytes(tensor) > buffer.bytes)
    throw new QdlError(
      "OP_ARGUMENT",
      `cpu: a tensor at byte ${offset} of "${buffer.label}" is not inside it on whole elements`,
    );
  return buffer.address + offset;
}
