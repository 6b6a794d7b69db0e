// C functions by name. Handles and device addresses are plain numbers (they fit in 2^53), declared uint64. What a function
// writes back goes through a one-element typed array.

import { QdlError } from "../../errors.ts";
import type { LoadedLibrary } from "./libraries.ts";

export type NativeArgument = number | bigint | string | ArrayBufferView | readonly string[] | null;
export type NativeCall = (...args: NativeArgument[]) => number;
export type NativeCalls<P> = { readonly [K in keyof P]: NativeCall };

/** Binds each prototype under its key. Throws BACKEND_UNAVAILABLE if the library lacks one. */
export function bind<P extends Readonly<Record<string, string>>>(
  library: LoadedLibrary,
  prototypes: P,
): NativeCalls<P> {
  const entries = Object.entries(prototypes).map(([key, prototype]) => [key, functionOf(library, prototype)]);
  return Object.fromEntries(entries) as NativeCalls<P>;
}

function functionOf({ file, library }: LoadedLibrary, prototype: string): NativeCall {
  try {
    return library.func(prototype);
  } catch (cause) {
    const name = /(\w+)\(/.exec(prototype)?.[1];
    throw new QdlError("BACKEND_UNAVAILABLE", `cuda: ${file} has no ${name}: it is too old`, {
      hint: "Update NVIDIA's driver to version 525 or newer, and its libraries to CUDA 12.4 or newer; CUDA_LIBRARY_PATH names folders to look in first.",
      details: { file, function: name },
      cause,
    });
  }
}

/** The same functions, with `fail` called where one returns anything but 0. */
export function checked<P>(calls: NativeCalls<P>, fail: (call: string, code: number) => never): NativeCalls<P> {
  const entries = Object.entries<NativeCall>(calls).map(([key, call]) => [
    key,
    (...args: NativeArgument[]) => {
      const code = call(...args);
      if (code !== 0) fail(key, code);
      return code;
    },
  ]);
  return Object.fromEntries(entries) as NativeCalls<P>;
}

/** Calls `write` with room for a 64-bit number and returns what was written. */
export function out64(write: (box: BigUint64Array) => unknown): number {
  const box = new BigUint64Array(1);
  write(box);
  return Number(box[0]);
}

/** The same for a 32-bit number. */
export function out32(write: (box: Int32Array) => unknown): number {
  const box = new Int32Array(1);
  write(box);
  return box[0]!;
}

/** The same for text that ends in a zero byte. */
export function outText(bytes: number, write: (box: Uint8Array) => unknown): string {
  const box = new Uint8Array(bytes);
  write(box);
  const end = box.indexOf(0);
  return new TextDecoder().decode(end < 0 ? box : box.subarray(0, end));
}
