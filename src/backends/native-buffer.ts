// Memory of the native backends: outside the JavaScript heap, at an address that never moves.

import { QdlError } from "../errors.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { type DeviceBuffer, spanBytes, type Tensor } from "../tensor/tensor.ts";

export class NativeBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly label: string;
  readonly #release: (address: number) => void;
  #address: number;

  /** `release` gives the memory back, once. */
  constructor(address: number, bytes: number, label: string, release: (address: number) => void) {
    this.#address = address;
    this.bytes = bytes;
    this.label = label;
    this.#release = release;
  }

  get disposed(): boolean {
    return this.#address === 0;
  }

  /** Throws TENSOR_STALE after `dispose`. */
  get address(): number {
    if (this.#address === 0)
      throw new QdlError("TENSOR_STALE", `buffer "${this.label}" was used after it was released`);
    return this.#address;
  }

  dispose(): void {
    if (this.#address === 0) return;
    const address = this.#address;
    this.#address = 0;
    this.#release(address);
  }
}

/** A class of buffers: the memory of one backend. */
type Kind = abstract new (...args: never[]) => NativeBuffer;

/** Address of a tensor's first element. Throws OP_ARGUMENT unless it is on a whole element of memory of this kind. */
export function addressIn(backend: string, kind: Kind, tensor: Tensor): number {
  const { buffer, offset } = tensor;
  if (!(buffer instanceof kind))
    throw new QdlError(
      "OP_ARGUMENT",
      `${backend}: a tensor lies in "${buffer.label}", expected memory of the ${backend} backend`,
    );
  if (offset % BYTES_PER_ELEMENT[tensor.dtype] !== 0 || offset + spanBytes(tensor) > buffer.bytes)
    throw new QdlError(
      "OP_ARGUMENT",
      `${backend}: a tensor at byte ${offset} of "${buffer.label}" is not inside it on whole elements`,
    );
  return buffer.address + offset;
}
