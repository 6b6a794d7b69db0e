// Dense stored weight → 4-bit weight, on the device: upload to staging, then the ops quantize4bit and quantizeScales.
// Staging is as large as the largest weight so far, reused from weight to weight, and freed by `dispose`.

import type { Backend } from "../backends/backend.ts";
import type { FloatDType } from "../formats/float-convert.ts";
import type { FourBitFormat } from "../ops/code-books.ts";
import { QUANT_BLOCK } from "../ops/frozen-weight.ts";
import type { ArgsOf, OpName } from "../ops/index.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../tensor/tensor.ts";
import type { StoredLinear } from "./base-tensors.ts";
import { uploadFloats } from "./upload.ts";

/** Where the parts of a 4-bit weight go. */
export interface FourBitTarget {
  readonly format: FourBitFormat;
  readonly codes: Tensor;
  readonly scales:
    | { readonly kind: "plain"; readonly absmax: Tensor }
    | {
        readonly kind: "double";
        readonly codes: Tensor;
        readonly absmax2: Tensor;
        readonly map: Tensor;
        /** f32 [1, 1]; read it back after the work. */
        readonly offset: Tensor;
      };
}

export class Quantizer {
  readonly #backend: Backend;
  readonly #weight: Staging;
  readonly #absmax: Staging;
  readonly #scratch: Staging;

  constructor(backend: Backend) {
    this.#backend = backend;
    this.#weight = new Staging(backend, "staging of a weight");
    this.#absmax = new Staging(backend, "staging of block scales");
    this.#scratch = new Staging(backend, "scratch of quantisation");
  }

  /** Enqueues the quantisation of one linear's dense weight. Throws TENSOR_NONFINITE, MEMORY_EXCEEDED. */
  async quantize({ rows, cols, weight }: StoredLinear, target: FourBitTarget): Promise<void> {
    if (weight.kind !== "dense") throw new TypeError("the weight is already 4-bit");
    const dtype = (weight.tensor.dtype as FloatDType) === "BF16" ? "bf16" : "f32";
    const buffer = await this.#weight.atLeast(rows * cols * (dtype === "bf16" ? 2 : 4));
    await uploadFloats(this.#backend, weight.tensor, { buffer, offset: 0 }, dtype);
    const w = matrix(buffer, dtype, rows, cols);
    const { format, codes, scales } = target;
    const absmax = scales.kind === "plain" ? scales.absmax : await this.#stagedAbsmax(rows * cols);
    await this.#run("quantize4bit", { w, codes, absmax, format });
    if (scales.kind === "plain") return;
    const { map, absmax2, offset } = scales;
    await this.#run("quantizeScales", { absmax, map, codes: scales.codes, absmax2, offset });
  }

  dispose(): void {
    for (const staging of [this.#weight, this.#absmax, this.#scratch]) staging.dispose();
  }

  async #stagedAbsmax(values: number): Promise<Tensor> {
    const blocks = Math.ceil(values / QUANT_BLOCK);
    return matrix(await this.#absmax.atLeast(blocks * 4), "f32", 1, blocks);
  }

  async #run<K extends OpName>(op: K, args: ArgsOf<K>): Promise<void> {
    const bytes = this.#backend.scratchBytes(op, args);
    const scratch = bytes === 0 ? null : matrix(await this.#scratch.atLeast(bytes), "u8", 1, bytes);
    this.#backend.run(op, args, scratch);
  }
}

/** One buffer that grows. It is replaced only after the work that uses it is done. */
class Staging {
  readonly #backend: Backend;
  readonly #label: string;
  #buffer: DeviceBuffer | null = null;

  constructor(backend: Backend, label: string) {
    this.#backend = backend;
    this.#label = label;
  }

  async atLeast(bytes: number): Promise<DeviceBuffer> {
    if (this.#buffer && this.#buffer.bytes >= bytes) return this.#buffer;
    if (this.#buffer) await settle(this.#backend, this.#buffer);
    this.dispose();
    this.#buffer = this.#backend.alloc(bytes, this.#label);
    return this.#buffer;
  }

  dispose(): void {
    this.#buffer?.dispose();
    this.#buffer = null;
  }
}

/** Waits for all enqueued work: reading back is what waits. */
export async function settle(backend: Backend, buffer: DeviceBuffer): Promise<void> {
  await backend.read(buffer, 0, Math.min(1, buffer.bytes));
}
