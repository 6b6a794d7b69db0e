// Memory of the GPU, or of the host where the GPU reaches it.

import type { Tensor } from "../../tensor/tensor.ts";
import { addressIn, NativeBuffer } from "../native-buffer.ts";

export class CudaBuffer extends NativeBuffer {
  constructor(
    allocated: number,
    bytes: number,
    label: string,
    free: (address: number) => void,
    onDispose: (buffer: CudaBuffer) => void,
  ) {
    super(allocated, bytes, label, (address) => {
      free(address);
      onDispose(this);
    });
  }
}

/** Throws OP_ARGUMENT unless the tensor is on whole elements of this backend's memory. */
export const addressOf = (tensor: Tensor): number => addressIn("cuda", CudaBuffer, tensor);
