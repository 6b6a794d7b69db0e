// koffi, configured once for every backend that calls native libraries, and memory outside the JavaScript heap.

import koffi from "koffi";

// koffi runs C code on a stack of its own, whose size cannot change after the first library: CPU kernels keep some tens of
// KiB there, the CUDA driver and its compilers more. It is address space, touched as it is used.
koffi.config({ sync_stack_size: 16 << 20 });

export { koffi };

/** Memory at an address that never moves, and a view of it. It lives as long as the process. */
export interface NativeBlock {
  readonly address: number;
  readonly view: Uint8Array<ArrayBuffer>;
}

/** Zeroed memory for the life of the process: small tables, and blocks that are used again and again. */
export function nativeBlock(bytes: number): NativeBlock {
  const pointer = koffi.alloc("uint8", bytes);
  const view = new Uint8Array(koffi.view(pointer, bytes));
  view.fill(0);
  return { address: Number(koffi.address(pointer)), view };
}
