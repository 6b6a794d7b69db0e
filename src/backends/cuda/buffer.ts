// Memory of the GPU.

import { QdlError } from "../../errors.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import { type DeviceBuffer, spanBytes, type Tensor } from "../../tensor/tensor.ts";

export class CudaBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly label: string;
  readonly #free: (address: number) => void;
  readonly #onDispose: (buffer: CudaBuffer) => void;
  #address: number;

  constructor(
    address: number,
    bytes: number,
    label: string,
    free: (address: number) => void,
    onDispose: (buffer: CudaBuffer) => void,
  ) {
    this.#address = address;
    this.bytes = bytes;
    this.label = label;
    this.#free = free;
    this.#onDispose = onDispose;
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
    this.#free(this.#address);
    this.#address = 0;
    this.#onDispose(this);
  }
}

/** Address of a tensor's first element. Throws OP_ARGUMENT unless it is on a whole element of this backend's memory. */
export function addressOf(tensor: Tensor): number {
  const { buffer, offset } = tensor;
  if (!(buffer instanceof CudaBuffer))
    throw new QdlError("OP_ARGUMENT", `cuda: a tensor lies in "${buffer.label}", expected memory of the cuda backend`);
  if (offset % BYTES_PER_ELEMENT[tensor.dtype] !== 0 || offset + spanBytes(tensor) > buffer.bytes)
    throw new QdlError(
      "OP_ARGUMENT",
      `cuda: a tensor at byte ${offset} of "${buffer.label}" is not inside it on whole elements`,
    );
  return buffer.address + offset;
}
