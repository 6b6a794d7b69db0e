// The C interface of the kernel library (kernels/library.cc), through koffi. A call costs
// about 0.1 µs. Addresses are plain numbers: user space ends far below 2^53.

import { koffi } from "../native.ts";

export interface NativeLibrary {
  /** Name of the variant with this number; null behind the last. */
  variant(number: number): string | null;
  variantRuns(number: number): number;
  /** Number of the op with this name, or −1. */
  op(name: string): number;
  /** Threads and workspaces of one backend; 0 if they cannot be had. */
  open(variant: number, threads: number): number;
  close(context: number): void;
  run(context: number, op: number, words: Float64Array, scratch: number): void;
  /** Measured FLOP/s of a register loop: products of f32 (0) or bf16 (1) activations. */
  peak(context: number, dtype: number, seconds: number): number;
  /** Zeroed memory, 64-byte aligned; 0 if there is none. */
  alloc(bytes: number): number;
  free(address: number, bytes: number): void;
  copyIn(address: number, from: Uint8Array, bytes: number): void;
  copyOut(to: Uint8Array, address: number, bytes: number): void;
}

/** Loads the library. Throws the loader's own error if the file is not one. */
export function loadLibrary(file: string): NativeLibrary {
  const library = koffi.load(file);
  return {
    variant: library.func("const char* qdl_variant(int variant)"),
    variantRuns: library.func("int qdl_variant_runs(int variant)"),
    op: library.func("int qdl_op(const char* name)"),
    open: library.func("uintptr_t qdl_open(int variant, int threads)"),
    close: library.func("void qdl_close(uintptr_t context)"),
    run: library.func("void qdl_run(uintptr_t context, int op, const void* words, uintptr_t scratch)"),
    peak: library.func("double qdl_peak(uintptr_t context, int dtype, double seconds)"),
    alloc: library.func("uintptr_t qdl_alloc(double bytes)"),
    free: library.func("void qdl_free(uintptr_t address, double bytes)"),
    copyIn: library.func("void qdl_copy(uintptr_t to, const void* from, double bytes)"),
    copyOut: library.func("void qdl_copy(_Out_ void* to, uintptr_t from, double bytes)"),
  };
}
