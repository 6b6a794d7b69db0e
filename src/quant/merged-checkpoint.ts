// A checkpoint whose linears carry an adapter: W' = W + s·B·A, computed in f32 and rounded once, one linear at a time and
// when it is read. It is a checkpoint like any other, so that whatever reads one writes the merged model: in 16 bit, 4 bit
// or another format.
//
// W is either what is stored ("original") or what the adapter was trained on: the values of the base format, 4-bit ones
// dequantised (docs/decisions/006). Most memory: the largest linear in f32 and in the dtype that is written.

import type { Backend } from "../backends/backend.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { toF32 } from "../formats/float-convert.ts";
import { encodeFloats, type OutputDType, STORED } from "../formats/output-dtype.ts";
import { bytesOf, type StoredDType, type StoredTensor, storedBytes } from "../formats/safetensors.ts";
import type { ModelConfig } from "../model/config.ts";
import { dynamicMap } from "../ops/code-books.ts";
import type { BaseFormat } from "../ops/frozen-weight.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";
import { findBaseTensors, type StoredLinear } from "./base-tensors.ts";
import { QUANT_STATE } from "./bitsandbytes.ts";
import { ChunkReader } from "./chunks.ts";
import { ErrorSums } from "./error-sums.ts";
import { isFourBit } from "./estimate-base.ts";
import { copiedParts, layOutFourBit, storedOffset } from "./four-bit-layout.ts";
import { Quantizer } from "./quantizer.ts";
import { runStaged, Staging } from "./staging.ts";
import { transposedTensor } from "./transposed-tensor.ts";
import { Uploader } from "./upload.ts";

/** What an adapter adds to one linear at one rank: s·B·A. */
export interface LinearUpdate {
  readonly rank: number;
  readonly scale: number;
  /** f32 [b, K] */
  readonly a: Float32Array;
  /** f32 [b, M] */
  readonly bTransposed: Float32Array;
}

export interface MergeOptions {
  readonly checkpoint: Checkpoint;
  readonly config: ModelConfig;
  readonly backend: Backend;
  /** The update of a linear, or null where there is none. */
  readonly update: (layer: number, linear: string) => LinearUpdate | null;
  /** The weights to add it to: as stored, or as a base of this format holds them. */
  readonly onto: "original" | { readonly format: BaseFormat; readonly doubleQuant: boolean };
  /** Dtype of the merged weights, by name; `stored` is the dtype of dense ones, and what 4-bit ones dequantise to. */
  readonly dtype: (name: string, stored: StoredDType) => OutputDType;
}

/** How far the merged weights are from W + s·B·A because they are rounded, over all linears that were read. */
export interface RoundingError {
  /** ‖stored − exact‖ / ‖exact‖ */
  readonly relative: number;
  /** ‖stored − exact‖ / ‖s·B·A‖; 0 where there is no update. */
  readonly ofUpdate: number;
}

export interface MergedCheckpoint extends Checkpoint {
  /** Of what was read so far. */
  roundingError(): RoundingError;
  /** ‖s·B·A‖ of what was read so far. */
  updateNorm(): number;
  /** Releases what it holds of the device; the checkpoint below stays open. */
  dispose(): void;
}

/** Throws what `findBaseTensors` throws. Reading a merged weight throws TENSOR_NONFINITE, MEMORY_EXCEEDED. */
export async function mergedCheckpoint(options: MergeOptions): Promise<MergedCheckpoint> {
  const { checkpoint, config } = options;
  const base = await findBaseTensors(checkpoint, config);
  const merger = new Merger(options);
  const merged = new Map<string, StoredTensor>();
  const headName = base.head && checkpoint.find(base.head.name);
  if (base.head && headName) merged.set(headName, base.head);
  for (const [layer, { linears }] of base.layers.entries())
    for (const [name, linear] of Object.entries(linears)) {
      const stored = checkpoint.find(`${linear.path}.weight`)!;
      const tensor = merger.tensor(stored, linear, options.update(layer, name));
      merged.set(stored, linear.transposed ? transposedTensor(tensor) : tensor);
    }
  const isPart = (name: string) => [...FOUR_BIT_PARTS].some((part) => name.includes(`.weight${part}`));
  const names = checkpoint.tensorNames.filter((name) => merged.has(name) || !isPart(name));
  const find = (name: string): string | null => (isPart(name) ? null : checkpoint.find(name));
  return {
    ...checkpoint,
    configJson: withoutQuantization(checkpoint.configJson),
    tensorNames: names,
    find,
    tensor: (name) => merged.get(find(name) ?? name) ?? checkpoint.tensor(name),
    roundingError: () => merger.roundingError(),
    updateNorm: () => merger.updateNorm(),
    dispose: () => merger.dispose(),
  };
}

/** What follows the name of a 4-bit weight in the names of its parts. */
const FOUR_BIT_PARTS = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", QUANT_STATE];

function withoutQuantization(configJson: unknown): unknown {
  const { quantization_config: _, ...rest } = configJson as Record<string, unknown>;
  return rest;
}

const STORED_DTYPES = { bfloat16: "BF16", float16: "F16", float32: "F32" } as const;

/** Values of one step of the work: rows of a linear that make up to 16 MiB in f32. */
const BLOCK_VALUES = 4 << 20;

class Merger {
  readonly #options: MergeOptions;
  readonly #uploader: Uploader;
  readonly #quantizer: Quantizer;
  /** The linear that was read last. */
  #current: { readonly name: string; readonly bytes: Promise<Uint8Array> } | null = null;
  readonly #error = new ErrorSums();
  #updateSquares = 0;

  constructor(options: MergeOptions) {
    this.#options = options;
    const reader = new ChunkReader();
    this.#uploader = new Uploader(options.backend, reader);
    this.#quantizer = new Quantizer(options.backend, reader);
  }

  dispose(): void {
    this.#uploader.dispose();
    this.#quantizer.dispose();
    this.#current = null;
  }

  roundingError(): RoundingError {
    const { relative, norm } = this.#error;
    return { relative, ofUpdate: this.#updateSquares === 0 ? 0 : norm / this.updateNorm() };
  }

  updateNorm(): number {
    return Math.sqrt(this.#updateSquares);
  }

  tensor(name: string, linear: StoredLinear, update: LinearUpdate | null): StoredTensor {
    const { checkpoint, dtype } = this.#options;
    const { weight } = linear;
    const stored = weight.kind === "dense" ? weight.tensor.dtype : STORED_DTYPES[weight.dtype];
    const chosen = dtype(`${linear.path}.weight`, stored);
    const shape = [linear.rows, linear.cols];
    const bytes = storedBytes(STORED[chosen], shape);
    const read = async (offset = 0, length = bytes - offset, into?: Uint8Array): Promise<Uint8Array> => {
      if (this.#current?.name !== name) this.#current = { name, bytes: this.#merge(name, linear, update, chosen) };
      const part = (await this.#current.bytes).subarray(offset, offset + length);
      if (!into) return part;
      into.set(part);
      return into.subarray(0, length);
    };
    return { name, file: checkpoint.name, dtype: STORED[chosen], shape, bytes, read };
  }

  async #merge(
    name: string,
    linear: StoredLinear,
    update: LinearUpdate | null,
    dtype: OutputDType,
  ): Promise<Uint8Array> {
    const { backend } = this.#options;
    const { rows, cols } = linear;
    const weight = backend.alloc(rows * cols * 4, `merged ${linear.path}`);
    const adding = update && new UpdateBlocks(backend, update, rows, cols);
    try {
      await this.#fill(weight, linear);
      const out = new Uint8Array(storedBytes(STORED[dtype], [rows, cols]));
      const step = Math.max(1, Math.floor(BLOCK_VALUES / cols));
      for (let row = 0; row < rows; row += step) {
        const count = Math.min(step, rows - row);
        if (adding) this.#updateSquares += await adding.addTo(weight, row, count);
        const exact = toF32("F32", await backend.read(weight, row * cols * 4, count * cols * 4));
        const encoded = encodeFloats(name, exact, dtype);
        this.#error.add(exact, toF32(STORED[dtype], encoded));
        out.set(encoded, row * cols * (encoded.length / exact.length));
      }
      return out;
    } finally {
      adding?.dispose();
      weight.dispose();
    }
  }

  /** W in f32. */
  async #fill(to: DeviceBuffer, linear: StoredLinear): Promise<void> {
    const { backend, onto } = this.#options;
    const { weight, rows, cols } = linear;
    const y = matrix(to, "f32", rows, cols);
    const trained = onto === "original" ? null : onto;
    if (weight.kind === "4bit") return this.#fourBit(linear, weight.format, weight.scales.kind === "double", to);
    if (trained && isFourBit(trained.format)) return this.#fourBit(linear, trained.format, trained.doubleQuant, to);
    if (trained?.format !== "bf16") return this.#uploader.floats(weight.tensor, { buffer: to, offset: 0 }, "f32");
    const rounded = backend.alloc(rows * cols * 2, `rounded ${linear.path}`);
    try {
      await this.#uploader.floats(weight.tensor, { buffer: rounded, offset: 0 }, "bf16");
      backend.run("cast", { x: matrix(rounded, "bf16", rows, cols), y });
      await backend.read(to, 0, 1);
    } finally {
      rounded.dispose();
    }
  }

  /** The values of the 4-bit weight: the stored one, or the one that the dense weight becomes. */
  async #fourBit(linear: StoredLinear, format: "nf4" | "fp4", doubleQuant: boolean, to: DeviceBuffer): Promise<void> {
    const { backend } = this.#options;
    const { weight, rows, cols } = linear;
    const layout = layOutFourBit(linear, format, doubleQuant);
    const buffer = backend.alloc(layout.bytes, `4-bit ${linear.path}`);
    try {
      const scales = weight.kind === "4bit" && weight.scales.kind === "double" ? weight.scales : null;
      if (layout.map) backend.write(buffer, layout.map.offset, bytesOf(scales?.map ?? dynamicMap()));
      if (weight.kind === "4bit")
        for (const [tensor, slot] of copiedParts(weight, layout.slots))
          await this.#uploader.bytes(tensor, { buffer, offset: slot.offset });
      else await this.#quantizer.quantize(linear, layout.target(buffer));
      const offset = scales?.offset ?? storedOffset(layout, await backend.read(buffer, 0, layout.bytes));
      backend.run("dequantize", { weight: layout.weight(buffer, offset), y: matrix(to, "f32", rows, cols) });
      // Waits for the work before its buffer goes.
      await backend.read(to, 0, 1);
    } finally {
      buffer.dispose();
    }
  }
}

/** s·B·A by rows, with A and B on the device. */
class UpdateBlocks {
  readonly #backend: Backend;
  readonly #rank: number;
  readonly #cols: number;
  readonly #buffer: DeviceBuffer;
  readonly #bOffset: number;
  readonly #block: Staging;
  readonly #scratch: Staging;
  readonly #sum: DeviceBuffer;

  constructor(backend: Backend, { rank, scale, a, bTransposed }: LinearUpdate, rows: number, cols: number) {
    this.#backend = backend;
    this.#rank = rank;
    this.#cols = cols;
    this.#bOffset = Math.ceil((rank * cols * 4) / 64) * 64;
    this.#buffer = backend.alloc(this.#bOffset + rank * rows * 4, "factors of an update");
    this.#block = new Staging(backend, "rows of an update");
    this.#scratch = new Staging(backend, "scratch of an update");
    this.#sum = backend.alloc(64, "norm of an update");
    backend.write(this.#buffer, 0, bytesOf(transposed(a, rank, cols, 1)));
    backend.write(this.#buffer, this.#bOffset, bytesOf(transposed(bTransposed, rank, rows, scale)));
  }

  /** Adds rows row..row+count−1 to the same rows of `weight`, f32 [M, K]; returns the sum of their squares. */
  async addTo(weight: DeviceBuffer, row: number, count: number): Promise<number> {
    const backend = this.#backend;
    const bytes = count * this.#cols * 4;
    const update = matrix(await this.#block.atLeast(bytes), "f32", count, this.#cols);
    const b = matrix(this.#buffer, "f32", count, this.#rank, this.#bOffset + row * this.#rank * 4);
    const a = matrix(this.#buffer, "f32", this.#cols, this.#rank);
    const target = matrix(weight, "f32", count, this.#cols, row * this.#cols * 4);
    await runStaged(backend, this.#scratch, "matmul", { x: b, weight: a, y: update });
    await runStaged(backend, this.#scratch, "add", { a: target, b: update, y: target });
    await runStaged(backend, this.#scratch, "sumSquares", { xs: [update], sum: matrix(this.#sum, "f32", 1, 1) });
    return toF32("F32", await backend.read(this.#sum, 0, 4))[0]!;
  }

  dispose(): void {
    for (const held of [this.#block, this.#scratch, this.#buffer, this.#sum]) held.dispose();
  }
}

/** [rows, cols] → [cols, rows], times `factor`. */
function transposed(values: Float32Array, rows: number, cols: number, factor: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) out[c * rows + r] = factor * values[r * cols + c]!;
  return out;
}
