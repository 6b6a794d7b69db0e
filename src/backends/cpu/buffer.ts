// Memory of the CPU backend.

import type { Tensor } from "../../tensor/tensor.ts";
import { addressIn, NativeBuffer } from "../native-buffer.ts";
import type { NativeLibrary } from "./ffi.ts";

export class CpuBuffer extends NativeBuffer {
  /** Throws if there is no memory. */
  constructor(library: NativeLibrary, bytes: number, label: string, onDispose: (buffer: CpuBuffer) => void) {
    const allocated = library.alloc(bytes);
    if (allocated === 0) throw new Error("the system has no more memory");
    super(allocated, bytes, label, (address) => {
      library.free(address, bytes);
      onDispose(this);
    });
  }
}

/** Throws OP_ARGUMENT unless the tensor is on whole elements of this backend's memory. */
export const addressOf = (tensor: Tensor): number => addressIn("cpu", CpuBuffer, tensor);
