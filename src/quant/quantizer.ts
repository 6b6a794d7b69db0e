// Dense stored weight → 4-bit weight, on the device and chunk by chunk: upload to staging, then the op quantize4bit, whose
// blocks run on across rows; at the end quantizeScales over the whole weight's scales. A block's scale is its largest
// magnitude, so it is NaN or infinite exactly if one of its weights is: scales are looked at instead of weights.

import type { Backend } from "../backends/backend.ts";
import { type FloatDType, firstNonFinite, toF32 } from "../formats/float-convert.ts";
import { bytesOf, type StoredTensor } from "../formats/safetensors.ts";
import { DTYPE_BITS } from "../formats/safetensors-header.ts";
import type { FourBitFormat } from "../ops/code-books.ts";
import { QUANT_BLOCK } from "../ops/frozen-weight.ts";
import type { ArgsOf } from "../ops/index.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { matrix, type Tensor } from "../tensor/tensor.ts";
import type { StoredLinear } from "./base-tensors.ts";
import { type Chunk, ChunkReader } from "./chunks.ts";
import { runStaged, Staging } from "./staging.ts";
import { requireFinite } from "./upload.ts";

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
  readonly #reader: ChunkReader;
  readonly #values: Staging;
  readonly #absmax: Staging;
  readonly #scratch: Staging;

  constructor(backend: Backend, reader = new ChunkReader()) {
    this.#backend = backend;
    this.#reader = reader;
    this.#values = new Staging(backend, "staging of weights");
    this.#absmax = new Staging(backend, "staging of block scales");
    this.#scratch = new Staging(backend, "scratch of quantisation");
  }

  /** Enqueues the quantisation of one linear's dense weight. Throws TENSOR_NONFINITE, MEMORY_EXCEEDED. */
  async quantize({ rows, cols, weight }: StoredLinear, { format, codes, scales }: FourBitTarget): Promise<void> {
    if (weight.kind !== "dense") throw new TypeError("the weight is already 4-bit");
    const absmax = scales.kind === "plain" ? scales.absmax : await this.#stagedAbsmax(rows * cols);
    for await (const chunk of this.#reader.chunks(weight.tensor))
      await this.#chunk(weight.tensor, chunk, { format, codes, absmax });
    if (scales.kind === "plain") return;
    const { map, absmax2, offset } = scales;
    await runStaged(this.#backend, this.#scratch, "quantizeScales", {
      absmax,
      map,
      codes: scales.codes,
      absmax2,
      offset,
    });
  }

  dispose(): void {
    for (const staging of [this.#values, this.#absmax, this.#scratch]) staging.dispose();
  }

  async #chunk(tensor: StoredTensor, { bytes, at }: Chunk, whole: Omit<ArgsOf<"quantize4bit">, "w">): Promise<void> {
    const stored = tensor.dtype as FloatDType;
    const perElement = DTYPE_BITS[stored] / 8;
    const first = at / perElement;
    const values = bytes.length / perElement;
    const dtype = stored === "BF16" ? "bf16" : "f32";
    const buffer = await this.#values.atLeast(values * BYTES_PER_ELEMENT[dtype]);
    this.#backend.write(buffer, 0, stored === "BF16" ? bytes : bytesOf(toF32(stored, bytes)));
    const absmax = part(whole.absmax, first / QUANT_BLOCK, Math.ceil(values / QUANT_BLOCK));
    await runStaged(this.#backend, this.#scratch, "quantize4bit", {
      w: matrix(buffer, dtype, 1, values),
      codes: part(whole.codes, first / 2, Math.ceil(values / 2)),
      absmax,
      format: whole.format,
    });
    const scales = await this.#backend.read(absmax.buffer, absmax.offset, 4 * absmax.cols);
    if (firstNonFinite("F32", scales) >= 0) requireFinite(tensor, stored, bytes, first);
  }

  async #stagedAbsmax(values: number): Promise<Tensor> {
    const blocks = Math.ceil(values / QUANT_BLOCK);
    return matrix(await this.#absmax.atLeast(blocks * 4), "f32", 1, blocks);
  }
}

/** Elements first..first+cols−1 of a row. */
function part({ buffer, dtype, offset }: Tensor, first: number, cols: number): Tensor {
  return matrix(buffer, dtype, 1, cols, offset + first * BYTES_PER_ELEMENT[dtype]);
}
