// Row-major matrix products through cuBLASLt: C = alpha·op(A)·op(B) + beta·C with f32 accumulation.
//
// cuBLASLt thinks column-major, where a row-major buffer reads as its transpose. So it is asked for Cᵀ = op(B)ᵀ·op(A)ᵀ: the
// operands are swapped and each keeps its own flag.

import { QdlError } from "../../errors.ts";
import { nativeBlock } from "../native.ts";
import type { Driver } from "./driver.ts";
import type { LoadedLibrary } from "./libraries.ts";
import { bind, checked, type NativeCalls, out32, out64 } from "./native-calls.ts";
import type { TuningCache } from "./tuning.ts";

const PROTOTYPES = {
  create: "int cublasLtCreate(void *handle)",
  destroy: "int cublasLtDestroy(uint64 handle)",
  descriptionCreate: "int cublasLtMatmulDescCreate(void *description, int compute, int scale)",
  descriptionDestroy: "int cublasLtMatmulDescDestroy(uint64 description)",
  descriptionSet:
    "int cublasLtMatmulDescSetAttribute(uint64 description, int attribute, const void *value, size_t bytes)",
  layoutCreate: "int cublasLtMatrixLayoutCreate(void *layout, int type, uint64 rows, uint64 cols, int64 stride)",
  layoutDestroy: "int cublasLtMatrixLayoutDestroy(uint64 layout)",
  preferenceCreate: "int cublasLtMatmulPreferenceCreate(void *preference)",
  preferenceDestroy: "int cublasLtMatmulPreferenceDestroy(uint64 preference)",
  preferenceSet:
    "int cublasLtMatmulPreferenceSetAttribute(uint64 preference, int attribute, const void *value, size_t bytes)",
  heuristic:
    "int cublasLtMatmulAlgoGetHeuristic(uint64 handle, uint64 description, uint64 a, uint64 b, uint64 c, uint64 d, uint64 preference, int wanted, _Out_ void *results, void *count)",
  algorithmCheck:
    "int cublasLtMatmulAlgoCheck(uint64 handle, uint64 description, uint64 a, uint64 b, uint64 c, uint64 d, const void *algorithm, _Out_ void *result)",
  matmul:
    "int cublasLtMatmul(uint64 handle, uint64 description, uint64 alpha, uint64 a, uint64 layoutA, uint64 b, uint64 layoutB, uint64 beta, uint64 c, uint64 layoutC, uint64 d, uint64 layoutD, const void *algorithm, uint64 workspace, size_t workspaceBytes, uint64 stream)",
} as const;

const TYPES = { f32: 0, bf16: 14 } as const;
const BYTES = { f32: 4, bf16: 2 } as const;
const COMPUTE_F32 = 68;
const DESCRIPTION = { transposeA: 3, transposeB: 4, epilogue: 7, bias: 8 } as const;
/** A bias for each column of C, in C's dtype, added before rounding. */
const EPILOGUE_BIAS = 4;
const PREFERENCE = { workspaceBytes: 1, alignment: [5, 6, 7] } as const;
/** cublasLtMatmulHeuristicResult_t: the algorithm, then workspace bytes and state. */
const RESULT_BYTES = 96;
const ALGORITHM_BYTES = 64;
const STATE_AT = 72;
/** Alignment that the library assumes unless told, and knows no better than. */
const BEST_ALIGNMENT = 256;
const WORKSPACE_BYTES = 32 << 20;

/** Below so many operations all algorithms are about as fast, and there are many such shapes: the first one is taken. */
const LEAST_TIMED = 1e9;
const CANDIDATES = 16;
/** Candidates are timed in turns: clocks drift under the power limit, and a single pass ranks them wrongly. */
const TURNS = 7;
const LAUNCHES_A_TURN = 5;
/** A candidate must win by so much over the library's own first choice. */
const LEAST_WIN = 0.01;

export type ProductDtype = keyof typeof TYPES;

export interface ProductShape {
  /** C is m × n, the sum runs over k. */
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** A is stored k × m. */
  readonly transposeA?: boolean;
  /** B is stored n × k. */
  readonly transposeB?: boolean;
  /** Elements between stored rows. */
  readonly strideA: number;
  readonly strideB: number;
  readonly strideC: number;
  /** Of A and B. */
  readonly inputs: ProductDtype;
  readonly output: ProductDtype;
  /** A row of n elements is added to every row of C. */
  readonly biased?: boolean;
}

interface Operands {
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly alpha: number;
  readonly beta: number;
  /** Address of the bias of a biased product. */
  readonly bias?: number;
}

export class CublasLt {
  readonly file: string;
  /** As the library counts: 130100 for 13.1.0. */
  readonly version: number;
  readonly calls: NativeCalls<typeof PROTOTYPES>;
  readonly driver: Driver;
  readonly stream: number;
  readonly tuning: TuningCache;
  readonly deterministic: boolean;
  readonly #products = new Map<string, Product>();
  /** alpha and beta: read from host memory when a product is enqueued. */
  readonly #scalars = nativeBlock(8);
  #handle = 0;
  #workspace = 0;

  constructor(driver: Driver, stream: number, library: LoadedLibrary, tuning: TuningCache, deterministic: boolean) {
    this.file = library.file;
    this.driver = driver;
    this.stream = stream;
    this.tuning = tuning;
    this.deterministic = deterministic;
    this.version = bind(library, { version: "size_t cublasLtGetVersion()" }).version();
    this.calls = bind(library, PROTOTYPES);
  }

  get handle(): number {
    if (this.#handle === 0) this.#handle = out64((box) => this.checked.create(box));
    return this.#handle;
  }

  /** Calls that throw. */
  get checked(): NativeCalls<typeof PROTOTYPES> {
    return checked(this.calls, (call, code) => {
      throw new QdlError("DEVICE_FAILED", `cuda: cuBLASLt (${this.file}) failed: ${call} gave ${code}`, {
        hint: "Look at `nvidia-smi` for free memory and errors; resume from the last checkpoint.",
        details: { call, code, lastOp: this.driver.lastOp },
      });
    });
  }

  /**
   * The product of this shape on operands that start at these addresses, ready to be enqueued. What lies there does not
   * matter; how it is aligned does. Throws OP_UNSUPPORTED if the library has no algorithm.
   */
  prepare(shape: ProductShape, operands: Operands): () => void {
    const { a, b, c, beta } = operands;
    const aligned = [b, a, c].map((address) => alignmentOf(address));
    const key = JSON.stringify([shape, aligned, beta !== 0]);
    let product = this.#products.get(key);
    if (!product) {
      const kind = JSON.stringify([kindOf(shape), aligned, beta !== 0]);
      product = new Product(this, shape, aligned, key, `${this.version} ${kind}`);
      this.#products.set(key, product);
    }
    const chosen = product;
    return () => chosen.run(operands);
  }

  /** Enqueues; for Product. */
  enqueue(product: Product, { a, b, c, alpha, beta, bias }: Operands, algorithm: Uint8Array): void {
    new Float32Array(this.#scalars.view.buffer).set([alpha, beta]);
    const scalars = this.#scalars.address;
    const { description, layouts } = product;
    const refused = bias
      ? this.calls.descriptionSet(description, DESCRIPTION.bias, BigUint64Array.of(BigInt(bias)), 8)
      : 0;
    const code =
      refused ||
      this.calls.matmul(
        this.handle,
        description,
        scalars,
        b,
        layouts.b,
        a,
        layouts.a,
        scalars + 4,
        c,
        layouts.c,
        c,
        layouts.c,
        algorithm,
        this.workspace(),
        WORKSPACE_BYTES,
        this.stream,
      );
    if (code !== 0)
      throw new QdlError("DEVICE_FAILED", `cuda: cuBLASLt refuses the product ${product.key} with code ${code}`, {
        hint: "Run with --deterministic, and report this.",
        details: { code, product: product.key, lastOp: this.driver.lastOp },
      });
  }

  /** Memory that algorithms may use; one stream uses it at a time. */
  workspace(): number {
    if (this.#workspace === 0) this.#workspace = out64((box) => this.driver.checked.memAlloc(box, WORKSPACE_BYTES));
    return this.#workspace;
  }

  close(): void {
    for (const product of this.#products.values()) product.close();
    this.#products.clear();
    if (this.#workspace !== 0) this.driver.raw.memFree(this.#workspace);
    if (this.#handle !== 0) this.calls.destroy(this.#handle);
    this.#workspace = 0;
    this.#handle = 0;
  }
}

/** The largest power of two up to 256 that divides an address or a number of bytes. */
function alignmentOf(address: number): number {
  let alignment = BEST_ALIGNMENT;
  while (address % alignment !== 0) alignment /= 2;
  return alignment;
}

/**
 * What shapes have in common that share a timed algorithm: ranks and numbers of tokens vary from step to step, and timing each
 * would cost more than it gains. Sizes count in quarters of an octave, from 4,096 on (where the tiles of any algorithm fill the
 * GPU many times over) in whole ones, strides by what they are multiples of.
 */
function kindOf({ m, n, k, strideA, strideB, strideC, ...flags }: ProductShape) {
  const strides = [strideA * BYTES[flags.inputs], strideB * BYTES[flags.inputs], strideC * BYTES[flags.output]];
  return { sizes: [m, n, k].map(sizeClass), strides: strides.map(alignmentOf), ...flags };
}

const SMALLEST_SIZE = 64;
const LARGE_SIZE = 4096;

function sizeClass(size: number): number {
  if (size <= SMALLEST_SIZE) return SMALLEST_SIZE;
  const octave = 2 ** Math.floor(Math.log2(size));
  const unit = size < LARGE_SIZE ? octave / 4 : octave;
  return Math.ceil(size / unit) * unit;
}

/** One shape and alignment: the library's descriptions of it, and the algorithm that was chosen. */
class Product {
  readonly key: string;
  readonly description: number;
  readonly layouts: { readonly a: number; readonly b: number; readonly c: number };
  readonly #library: CublasLt;
  readonly #shape: ProductShape;
  /** What it shares its timed algorithm by. */
  readonly #kind: string;
  readonly #candidates: readonly Uint8Array[];
  #algorithm: Uint8Array | null;

  constructor(library: CublasLt, shape: ProductShape, aligned: readonly number[], key: string, kind: string) {
    const {
      m,
      n,
      k,
      transposeA = false,
      transposeB = false,
      strideA,
      strideB,
      strideC,
      inputs,
      output,
      biased,
    } = shape;
    const calls = library.checked;
    this.key = key;
    this.#kind = kind;
    this.#library = library;
    this.#shape = shape;
    this.description = out64((box) => calls.descriptionCreate(box, COMPUTE_F32, TYPES.f32));
    const flag = (attribute: number, value: boolean) =>
      calls.descriptionSet(this.description, attribute, Int32Array.of(value ? 1 : 0), 4);
    flag(DESCRIPTION.transposeA, transposeB);
    flag(DESCRIPTION.transposeB, transposeA);
    if (biased) calls.descriptionSet(this.description, DESCRIPTION.epilogue, Int32Array.of(EPILOGUE_BIAS), 4);
    const layout = (type: ProductDtype, rows: number, cols: number, stride: number) =>
      out64((box) => calls.layoutCreate(box, TYPES[type], cols, rows, stride));
    this.layouts = {
      a: transposeA ? layout(inputs, k, m, strideA) : layout(inputs, m, k, strideA),
      b: transposeB ? layout(inputs, n, k, strideB) : layout(inputs, k, n, strideB),
      c: layout(output, m, n, strideC),
    };
    this.#algorithm = this.#kept();
    this.#candidates = this.#algorithm ? [] : this.#ask(aligned);
    if (this.#algorithm) return;
    const [first] = this.#candidates;
    if (!first)
      throw new QdlError("OP_UNSUPPORTED", `cuda: cuBLASLt ${library.version} has no algorithm for ${key}`, {
        details: { shape, aligned, version: library.version },
      });
    const untimed = library.deterministic || this.#candidates.length === 1 || 2 * m * n * k < LEAST_TIMED;
    if (untimed) this.#algorithm = first;
  }

  /** Enqueues. The first of its kind also times the candidates, on these very operands, which waits for the device. */
  run(operands: Operands): void {
    this.#algorithm ??= this.#kept() ?? this.#choose(operands);
    this.#library.enqueue(this, operands, this.#algorithm);
  }

  close(): void {
    const { calls } = this.#library;
    for (const layout of Object.values(this.layouts)) calls.layoutDestroy(layout);
    calls.descriptionDestroy(this.description);
  }

  /** The algorithm that its kind has been timed to, if it can do this very shape too. */
  #kept(): Uint8Array | null {
    const text = this.#library.tuning.get(this.#kind);
    if (text === undefined) return null;
    const algorithm = Uint8Array.from(Buffer.from(text, "hex"));
    const { calls, handle } = this.#library;
    const { a, b, c } = this.layouts;
    const result = new Uint8Array(RESULT_BYTES);
    if (calls.algorithmCheck(handle, this.description, b, a, c, c, algorithm, result) !== 0) return null;
    const workspace = new DataView(result.buffer).getBigUint64(ALGORITHM_BYTES, true);
    return workspace <= WORKSPACE_BYTES ? algorithm : null;
  }

  /** Algorithms that can do it, the library's best guess first. */
  #ask(aligned: readonly number[]): Uint8Array[] {
    const { checked: calls, handle } = this.#library;
    const preference = out64((box) => calls.preferenceCreate(box));
    calls.preferenceSet(preference, PREFERENCE.workspaceBytes, BigUint64Array.of(BigInt(WORKSPACE_BYTES)), 8);
    for (const [i, attribute] of PREFERENCE.alignment.entries())
      calls.preferenceSet(preference, attribute, Uint32Array.of(aligned[i]!), 4);
    const results = new Uint8Array(RESULT_BYTES * CANDIDATES);
    const { a, b, c } = this.layouts;
    let count = 0;
    // A code other than 0 means that there is none: no failure of the device.
    try {
      count = out32((box) =>
        this.#library.calls.heuristic(handle, this.description, b, a, c, c, preference, CANDIDATES, results, box),
      );
    } finally {
      calls.preferenceDestroy(preference);
    }
    const usable: Uint8Array[] = [];
    for (let i = 0; i < count; i++) {
      const result = results.subarray(RESULT_BYTES * i, RESULT_BYTES * (i + 1));
      if (new DataView(result.buffer, result.byteOffset).getInt32(STATE_AT, true) === 0)
        usable.push(result.slice(0, ALGORITHM_BYTES));
    }
    return usable;
  }

  /** Where the algorithm of its kind cannot do it, the first of its own: the kind's stays what it is. */
  #choose(operands: Operands): Uint8Array {
    return this.#library.tuning.get(this.#kind) === undefined ? this.#tune(operands) : this.#candidates[0]!;
  }

  #tune(operands: Operands): Uint8Array {
    const restore = operands.beta === 0 ? () => {} : this.#keepOutput(operands.c);
    const times = this.#candidates.map((): number[] => []);
    const clock = new Stopwatch(this.#library);
    for (let turn = 0; turn < TURNS; turn++)
      for (const [i, algorithm] of this.#candidates.entries())
        times[i]!.push(clock.milliseconds(() => this.#library.enqueue(this, operands, algorithm), LAUNCHES_A_TURN));
    clock.close();
    restore();
    const medians = times.map((list) => list.sort((x, y) => x - y)[TURNS >> 1]!);
    const best = medians.indexOf(Math.min(...medians));
    const algorithm = this.#candidates[medians[best]! < (1 - LEAST_WIN) * medians[0]! ? best : 0]!;
    this.#library.tuning.set(this.#kind, Buffer.from(algorithm).toString("hex"));
    return algorithm;
  }

  /** Copies C aside, as products that add to it would spoil it. Returns what puts it back. */
  #keepOutput(c: number): () => void {
    const { driver, stream } = this.#library;
    const { m, n, strideC, output } = this.#shape;
    const bytes = ((m - 1) * strideC + n) * BYTES[output];
    const copy = out64((box) => driver.checked.memAlloc(box, bytes));
    driver.checked.memcpyOnDevice(copy, c, bytes, stream);
    return () => {
      driver.checked.memcpyOnDevice(c, copy, bytes, stream);
      driver.checked.streamSynchronize(stream);
      driver.checked.memFree(copy);
    };
  }
}

/** Time on the stream between two events. */
class Stopwatch {
  readonly #library: CublasLt;
  readonly #events: readonly [number, number];

  constructor(library: CublasLt) {
    this.#library = library;
    const event = () => out64((box) => library.driver.checked.eventCreate(box, 0));
    this.#events = [event(), event()];
  }

  /** Of `count` calls, after one that is not counted. Waits for them. */
  milliseconds(work: () => void, count: number): number {
    const { driver, stream } = this.#library;
    const [from, to] = this.#events;
    work();
    driver.checked.eventRecord(from, stream);
    for (let i = 0; i < count; i++) work();
    driver.checked.eventRecord(to, stream);
    driver.checked.eventSynchronize(to);
    const time = new Float32Array(1);
    driver.checked.eventElapsedTime(time, from, to);
    return time[0]!;
  }

  close(): void {
    for (const event of this.#events) this.#library.driver.raw.eventDestroy(event);
  }
}
