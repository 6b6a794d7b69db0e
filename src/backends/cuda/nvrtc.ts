// NVRTC: CUDA C++ to machine code for one generation of GPU. The kernels include no headers, so it needs no include path.

import { QdlError } from "../../errors.ts";
import type { LoadedLibrary } from "./libraries.ts";
import { bind, type NativeCalls, out32, out64, outText } from "./native-calls.ts";

const PROTOTYPES = {
  version: "int nvrtcVersion(void *major, void *minor)",
  supportedArchCount: "int nvrtcGetNumSupportedArchs(void *count)",
  supportedArchs: "int nvrtcGetSupportedArchs(void *archs)",
  createProgram:
    "int nvrtcCreateProgram(void *program, const char *source, const char *name, int headers, const char **texts, const char **names)",
  destroyProgram: "int nvrtcDestroyProgram(void *program)",
  compileProgram: "int nvrtcCompileProgram(uint64 program, int count, const char **options)",
  logBytes: "int nvrtcGetProgramLogSize(uint64 program, void *bytes)",
  log: "int nvrtcGetProgramLog(uint64 program, void *text)",
  cubinBytes: "int nvrtcGetCUBINSize(uint64 program, void *bytes)",
  cubin: "int nvrtcGetCUBIN(uint64 program, void *image)",
} as const;

export interface KernelSource {
  readonly name: string;
  readonly source: string;
  /** Texts by the names they are included by. */
  readonly headers: Readonly<Record<string, string>>;
}

export class Nvrtc {
  readonly file: string;
  /** "13.0" */
  readonly version: string;
  readonly #calls: NativeCalls<typeof PROTOTYPES>;

  constructor(library: LoadedLibrary) {
    this.file = library.file;
    this.#calls = bind(library, PROTOTYPES);
    let minor = 0;
    const major = out32((majorBox) => {
      minor = out32((minorBox) => this.#checked("version", majorBox, minorBox));
    });
    this.version = `${major}.${minor}`;
  }

  /** Generations that it compiles for: 90 for sm_90. */
  supportedArchs(): number[] {
    const archs = new Int32Array(out32((box) => this.#checked("supportedArchCount", box)));
    this.#checked("supportedArchs", archs);
    return [...archs];
  }

  /** Machine code. Throws BACKEND_UNAVAILABLE with the compiler's log. */
  compile({ name, source, headers }: KernelSource, options: readonly string[]): Uint8Array {
    const program = new BigUint64Array(1);
    this.#checked("createProgram", program, source, name, ...included(headers));
    const handle = Number(program[0]);
    try {
      if (this.#calls.compileProgram(handle, options.length, options) !== 0) throw this.#refused(handle, name, options);
      const image = new Uint8Array(out64((box) => this.#checked("cubinBytes", handle, box)));
      this.#checked("cubin", handle, image);
      return image;
    } finally {
      this.#calls.destroyProgram(program);
    }
  }

  #refused(program: number, name: string, options: readonly string[]): QdlError {
    const log = outText(
      out64((box) => this.#calls.logBytes(program, box)),
      (text) => this.#calls.log(program, text),
    );
    return new QdlError("BACKEND_UNAVAILABLE", `cuda: NVRTC ${this.version} could not compile ${name}`, {
      hint: "Install a newer NVRTC (CUDA 12.4 or newer), or report this with the compiler's text.",
      details: { name, options, log, file: this.file },
    });
  }

  #checked(call: keyof typeof PROTOTYPES, ...args: Parameters<NativeCalls<typeof PROTOTYPES>["version"]>): void {
    const code = this.#calls[call](...args);
    if (code !== 0)
      throw new QdlError("BACKEND_UNAVAILABLE", `cuda: NVRTC (${this.file}) failed: ${call} gave ${code}`, {
        hint: "Install another version of NVRTC.",
        details: { call, code, file: this.file },
      });
  }
}

function included(headers: KernelSource["headers"]): [number, string[] | null, string[] | null] {
  const names = Object.keys(headers);
  return names.length === 0 ? [0, null, null] : [names.length, Object.values(headers), names];
}
