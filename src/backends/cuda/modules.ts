// Kernels by file, function and compile-time constants: compiled for the device at hand, kept on disk, loaded once.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { CubinCache } from "./cubin-cache.ts";
import type { Driver } from "./driver.ts";
import { out64 } from "./native-calls.ts";
import type { KernelSource, Nvrtc } from "./nvrtc.ts";

// src/backends/cuda or dist/backends/cuda: the package root is three folders up in both.
const SOURCES = fileURLToPath(new URL("../../../src/backends/cuda/kernels/", import.meta.url));
/** Stands before every kernel's source. */
const PRELUDE = "prelude.cu";
const MAX_DYNAMIC_SHARED_BYTES = 8;

/** Macros of one compilation: numbers, or names of types of the prelude. */
export type Defines = Readonly<Record<string, string | number>>;

export interface CudaFunction {
  readonly handle: number;
  /** For errors: file and function. */
  readonly name: string;
  /** Dynamic shared memory of each block. */
  readonly sharedBytes: number;
}

export class KernelModules {
  readonly #driver: Driver;
  readonly #nvrtc: Nvrtc;
  readonly #cache: CubinCache;
  readonly #arch: string;
  readonly #modules = new Map<string, number>();
  readonly #functions = new Map<string, CudaFunction>();
  /** Every file with the macros that it was compiled with here. */
  readonly builds: { readonly file: string; readonly defines: readonly string[] }[] = [];
  readonly #sources = new Map<string, KernelSource>();

  /** `arch`: "sm_90". */
  constructor(driver: Driver, nvrtc: Nvrtc, cache: CubinCache, arch: string) {
    this.#driver = driver;
    this.#nvrtc = nvrtc;
    this.#cache = cache;
    this.#arch = arch;
  }

  /** The function `name` of kernels/`file`. Throws BACKEND_UNAVAILABLE if it does not compile or load. */
  function(file: string, name: string, defines: Defines = {}, sharedBytes = 0): CudaFunction {
    const options = Object.entries(defines).map(([macro, value]) => `-D${macro}=${value}`);
    const key = [file, ...options].join(" ");
    const functionKey = `${key} ${name} ${sharedBytes}`;
    const known = this.#functions.get(functionKey);
    if (known) return known;
    const module = this.#module(key, file, options);
    const handle = out64((box) => this.#driver.checked.moduleGetFunction(box, module, name));
    if (sharedBytes > 0) this.#driver.checked.functionSetAttribute(handle, MAX_DYNAMIC_SHARED_BYTES, sharedBytes);
    const loaded = { handle, name: `${file} ${name}`, sharedBytes };
    this.#functions.set(functionKey, loaded);
    return loaded;
  }

  /** Machine code for a target such as "sm_90a", kept on disk. Throws BACKEND_UNAVAILABLE with the compiler's log. */
  compile(file: string, defines: readonly string[], target: string): Uint8Array {
    const source = this.#source(file);
    const options = [`--gpu-architecture=${target}`, "--std=c++17", ...defines];
    const parts = [JSON.stringify(source), this.#nvrtc.version, ...options];
    return this.#cache.get(parts, () => this.#nvrtc.compile(source, options));
  }

  /** Unloads everything. */
  close(): void {
    for (const module of this.#modules.values()) this.#driver.raw.moduleUnload(module);
    this.#modules.clear();
    this.#functions.clear();
  }

  #module(key: string, file: string, defines: readonly string[]): number {
    const known = this.#modules.get(key);
    if (known !== undefined) return known;
    const image = this.compile(file, defines, this.#arch);
    this.builds.push({ file, defines });
    const module = out64((box) => this.#driver.checked.moduleLoadData(box, image));
    this.#modules.set(key, module);
    return module;
  }

  #source(file: string): KernelSource {
    const known = this.#sources.get(file);
    if (known) return known;
    const source = kernelSource(file);
    this.#sources.set(file, source);
    return source;
  }
}

/** The text of kernels/`file` behind the prelude, and the headers that it includes. */
export function kernelSource(file: string): KernelSource {
  const read = (name: string) => readFileSync(join(SOURCES, name), "utf8");
  const text = read(file);
  const headers = [...text.matchAll(/^#include "(.+)"$/gm)].map(([, name]) => [name!, read(name!)]);
  // #line keeps the compiler's line numbers those of the file.
  const source = `${read(PRELUDE)}\n#line 1 "${file}"\n${text}`;
  return { name: file, source, headers: Object.fromEntries(headers) };
}
