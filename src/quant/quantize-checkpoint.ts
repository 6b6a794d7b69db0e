// A checkpoint → the same model with 4-bit linears in the layout of bitsandbytes, which transformers, vLLM and `loadBase`
// read. Streamed: one linear at a time is in memory. `loadBase` of the result equals `loadBase` of the source to the bit.
//
// In the file each linear's F32 parts come first and its bytes after, padded to 8, then the dense tensors, wide dtypes
// first: every tensor is aligned, though nothing is known of a linear before its turn.

import type { Backend } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import { type Checkpoint, SINGLE_FILE } from "../formats/checkpoint.ts";
import { type FloatDType, toBf16Words, toF32 } from "../formats/float-convert.ts";
import type { Folder } from "../formats/folder.ts";
import {
  bytesOf,
  encodeSafetensors,
  type StoredTensor,
  storedBytes,
  type TensorToWrite,
} from "../formats/safetensors.ts";
import { DTYPE_BITS, type StoredDType } from "../formats/safetensors-header.ts";
import { copyCompanions } from "../formats/write-checkpoint.ts";
import type { ModelConfig } from "../model/config.ts";
import type { TensorNames } from "../model/families/family.ts";
import { FAMILIES } from "../model/families/index.ts";
import { dynamicMap, type FourBitFormat } from "../ops/code-books.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";
import type { Slot } from "./base-layout.ts";
import { type BaseTensors, findBaseTensors, type StoredLinear } from "./base-tensors.ts";
import { codeBookBytes, encodeState, QUANT_STATE, type StateToWrite, stateLength } from "./bitsandbytes.ts";
import { CHUNK_BYTES } from "./chunks.ts";
import { ErrorSums } from "./error-sums.ts";
import { type FourBitLayout, layOutFourBit, storedOffset } from "./four-bit-layout.ts";
import type { LoadProgress } from "./load-base.ts";
import { checkQuantizationConfig, quantizationConfig } from "./quantization-config.ts";
import { Quantizer } from "./quantizer.ts";
import { requireFinite } from "./upload.ts";

export interface QuantizeOptions {
  readonly checkpoint: Checkpoint;
  readonly config: ModelConfig;
  readonly backend: Backend;
  /** Opened for writing; must not hold a model yet. */
  readonly output: Folder;
  /** Default nf4. */
  readonly format?: FourBitFormat | undefined;
  /** Default true. */
  readonly doubleQuant?: boolean | undefined;
  /** Also measure how far the 4-bit weights are from their source: one more pass over them. Default false. */
  readonly measureError?: boolean | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

export interface QuantizeResult {
  /** Bytes of the weights before and after. */
  readonly sourceBytes: number;
  readonly bytes: number;
  readonly files: readonly string[];
  /** ‖W₄ − W‖ / ‖W‖ over all linears, and ‖W₄ − W‖; null if not measured. */
  readonly error: { readonly relative: number; readonly norm: number } | null;
}

/**
 * Writes the quantised model; config.json comes last, so that a folder without it is no model. Embedding, head, norms and
 * biases are copied as they are, but for F32 and F64 embeddings and heads, which are rounded to bf16.
 * Throws FILE_EXISTS, CONFIG_INVALID (quantised already), WRITE_FAILED, and what `loadBase` throws of the checkpoint.
 */
export async function quantizeCheckpoint(options: QuantizeOptions): Promise<QuantizeResult> {
  const { checkpoint, config, output } = options;
  checkQuantizationConfig(checkpoint);
  await requireEmpty(output);
  const tensors = await findBaseTensors(checkpoint, config);
  const linears = tensors.layers.flatMap((layer) => Object.values(layer.linears));
  requireDense(checkpoint, linears);
  const dense = denseTensors(tensors, FAMILIES[config.family].tensors);
  const writer = new LinearWriter(options, sum([...dense, ...linears.map(storedWeight)]));
  try {
    const toWrite = [...linears.flatMap((linear) => writer.parts(linear)), ...dense.map((t) => writer.dense(t))];
    await output.write(SINGLE_FILE, encodeSafetensors(toWrite, { format: "pt" }));
    const copied = await copyCompanions(checkpoint.folder, output);
    await output.write("config.json", encodeConfig(options, writer.dtype(linears[0]!)));
    return {
      sourceBytes: writer.totalBytes,
      bytes: toWrite.reduce((bytes, { dtype, shape }) => bytes + storedBytes(dtype, shape), 0),
      files: [SINGLE_FILE, ...copied, "config.json"],
      error: options.measureError ? { relative: writer.error.relative, norm: writer.error.norm } : null,
    };
  } finally {
    writer.dispose();
  }
}

async function requireEmpty(output: Folder): Promise<void> {
  for (const name of ["config.json", SINGLE_FILE])
    if (await output.exists(name))
      throw new QdlError("FILE_EXISTS", `${output.path}: holds ${name} already, expected a folder without a model`, {
        hint: "Choose another output folder, or remove the old model.",
        details: { path: output.path, file: name },
      });
}

function requireDense(checkpoint: Checkpoint, linears: readonly StoredLinear[]): void {
  const found = linears.find((linear) => linear.weight.kind === "4bit");
  if (found)
    throw new QdlError("CONFIG_INVALID", `${checkpoint.name}: ${found.path} is 4-bit already, expected 16 or 32 bit`, {
      hint: "The model can be used as it is.",
      details: { path: checkpoint.name, module: found.path },
    });
}

type StateDType = StateToWrite["dtype"];

/** The source's config.json with the quantisation, and with the dtype that dense weights now have. */
function encodeConfig(
  { checkpoint, format = "nf4", doubleQuant = true }: QuantizeOptions,
  dtype: StateDType,
): Uint8Array {
  const source = checkpoint.configJson as Record<string, unknown>;
  const dtypeKey = "torch_dtype" in source ? "torch_dtype" : "dtype";
  const quantization_config = quantizationConfig({ format, doubleQuant, computeDtype: dtype });
  const json = { ...source, [dtypeKey]: dtype, quantization_config };
  return new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`);
}

interface DenseTensor {
  /** Name to write. */
  readonly name: string;
  readonly tensor: StoredTensor;
  /** As stored, or BF16 where it is rounded. */
  readonly dtype: StoredDType;
}

/** Wide dtypes first. */
function denseTensors(
  { embedding, positions, head, finalNorm, layers }: BaseTensors,
  names: TensorNames,
): DenseTensor[] {
  const kept = (name: string, tensor: StoredTensor): DenseTensor => ({ name, tensor, dtype: tensor.dtype });
  const in16 = (name: string, tensor: StoredTensor): DenseTensor => ({
    name,
    tensor,
    dtype: tensor.dtype === "F16" ? "F16" : "BF16",
  });
  const tensors = [in16(`${names.embedding}.weight`, embedding)];
  if (positions) tensors.push(in16(`${names.positions}.weight`, positions));
  if (head) tensors.push(in16(`${names.head}.weight`, head));
  for (const { path, weight, bias } of [finalNorm, ...layers.flatMap(({ norms }) => Object.values(norms))]) {
    tensors.push(kept(`${path}.weight`, weight));
    if (bias) tensors.push(kept(`${path}.bias`, bias));
  }
  for (const { path, bias } of layers.flatMap(({ linears }) => Object.values(linears)))
    if (bias) tensors.push(kept(`${path}.bias`, bias));
  return tensors.sort((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype]);
}

function storedWeight({ weight, path }: StoredLinear): DenseTensor {
  if (weight.kind !== "dense") throw new TypeError("the weight is already 4-bit");
  return { name: `${path}.weight`, tensor: weight.tensor, dtype: weight.tensor.dtype };
}

const sum = (tensors: readonly DenseTensor[]): number => tensors.reduce((bytes, { tensor }) => bytes + tensor.bytes, 0);

class LinearWriter {
  readonly totalBytes: number;
  readonly error = new ErrorSums();
  readonly #options: QuantizeOptions;
  readonly #format: FourBitFormat;
  readonly #doubleQuant: boolean;
  readonly #quantizer: Quantizer;
  readonly #map = dynamicMap();
  /** The linear that was quantised last. */
  #current: { readonly path: string; readonly bytes: Uint8Array } | null = null;
  #doneBytes = 0;

  constructor(options: QuantizeOptions, totalBytes: number) {
    this.#options = options;
    this.#format = options.format ?? "nf4";
    this.#doubleQuant = options.doubleQuant ?? true;
    this.#quantizer = new Quantizer(options.backend);
    this.totalBytes = totalBytes;
  }

  dispose(): void {
    this.#quantizer.dispose();
  }

  /** What bitsandbytes will dequantise to. */
  dtype(linear: StoredLinear): StateDType {
    return storedWeight(linear).dtype === "F16" ? "float16" : "bfloat16";
  }

  /** The tensors of one linear, in the order of the file. */
  parts(linear: StoredLinear): TensorToWrite[] {
    const layout = this.#layOut(linear);
    const { slots, offset } = layout;
    const { scales } = slots;
    const absmaxSlot = scales.kind === "plain" ? scales.absmax : scales.codes;
    const name = `${linear.path}.weight`;
    const { rows, cols } = linear;
    const state = { format: this.#format, rows, cols, dtype: this.dtype(linear), offset: offset ? 0 : null };
    const quantised = (slot: Slot) => this.#part(linear, layout, slot);
    const map = codeBookBytes(this.#format);
    const wide: TensorToWrite[] = [{ name: `${name}.quant_map`, dtype: "F32", shape: [16], content: map }];
    const absmax: TensorToWrite = {
      name: `${name}.absmax`,
      dtype: offset ? "U8" : "F32",
      shape: [absmaxSlot.cols],
      content: quantised(absmaxSlot),
    };
    const narrow: TensorToWrite[] = [];
    if (scales.kind === "double") {
      const { absmax2 } = scales;
      wide.push({ name: `${name}.nested_absmax`, dtype: "F32", shape: [absmax2.cols], content: quantised(absmax2) });
      wide.push({ name: `${name}.nested_quant_map`, dtype: "F32", shape: [256], content: bytesOf(this.#map) });
      narrow.push(absmax);
    } else wide.push(absmax);
    narrow.push({ name, dtype: "U8", shape: [slots.codes.cols, 1], content: quantised(slots.codes) });
    const before = [...wide, ...narrow].reduce((bytes, { dtype, shape }) => bytes + storedBytes(dtype, shape), 0);
    const length = stateLength(state, before);
    const content = async function* (this: LinearWriter) {
      const bytes = await this.#quantised(linear, layout);
      yield encodeState({ ...state, offset: offset && storedOffset(layout, bytes) }, length);
    }.bind(this);
    return [...wide, ...narrow, { name: name + QUANT_STATE + this.#format, dtype: "U8", shape: [length], content }];
  }

  /** A tensor that is copied, or rounded to bf16. */
  dense({ name, tensor, dtype }: DenseTensor): TensorToWrite {
    const stored = tensor.dtype as FloatDType;
    const content = async function* (this: LinearWriter) {
      for (let at = 0; at < tensor.bytes; at += CHUNK_BYTES) {
        const bytes = await tensor.read(at, Math.min(CHUNK_BYTES, tensor.bytes - at));
        requireFinite(tensor, stored, bytes, (at * 8) / DTYPE_BITS[stored]);
        yield dtype === stored ? bytes : bytesOf(toBf16Words(stored, bytes));
      }
      this.#report(tensor);
    }.bind(this);
    return { name, dtype, shape: tensor.shape, content };
  }

  #layOut(linear: StoredLinear): FourBitLayout {
    return layOutFourBit(linear, this.#format, this.#doubleQuant);
  }

  #part(linear: StoredLinear, layout: FourBitLayout, slot: Slot): () => AsyncIterable<Uint8Array> {
    const bytes = slot.rows * slot.cols * BYTES_PER_ELEMENT[slot.dtype];
    return async function* (this: LinearWriter) {
      yield (await this.#quantised(linear, layout)).subarray(slot.offset, slot.offset + bytes);
    }.bind(this);
  }

  /** All parts of the linear in one piece, quantised when the first of them is asked for. */
  async #quantised(linear: StoredLinear, layout: FourBitLayout): Promise<Uint8Array> {
    if (this.#current?.path === linear.path) return this.#current.bytes;
    const { backend } = this.#options;
    const buffer = backend.alloc(layout.bytes, `quantised ${linear.path}`);
    try {
      if (this.#doubleQuant) backend.write(buffer, 0, bytesOf(this.#map));
      await this.#quantizer.quantize(linear, layout.target(buffer));
      this.#current = { path: linear.path, bytes: await backend.read(buffer, 0, layout.bytes) };
      if (this.#options.measureError) await this.#measure(linear, layout, buffer);
    } finally {
      buffer.dispose();
    }
    this.#report(storedWeight(linear).tensor);
    return this.#current.bytes;
  }

  /** Compares the quantised weight in `buffer` with its source, chunk by chunk. */
  async #measure(linear: StoredLinear, layout: FourBitLayout, buffer: DeviceBuffer): Promise<void> {
    const { backend } = this.#options;
    const { rows, cols } = linear;
    const { tensor } = storedWeight(linear);
    const offset = storedOffset(layout, this.#current!.bytes);
    const values = backend.alloc(rows * cols * 4, `dequantised ${linear.path}`);
    try {
      backend.run("dequantize", { weight: layout.weight(buffer, offset), y: matrix(values, "f32", rows, cols) });
      const elementBytes = DTYPE_BITS[tensor.dtype] / 8;
      for (let at = 0; at < tensor.bytes; at += CHUNK_BYTES) {
        const length = Math.min(CHUNK_BYTES, tensor.bytes - at);
        const exact = toF32(tensor.dtype as FloatDType, await tensor.read(at, length));
        const stored = await backend.read(values, (at / elementBytes) * 4, exact.length * 4);
        this.error.add(exact, toF32("F32", stored));
      }
    } finally {
      values.dispose();
    }
  }

  #report(tensor: StoredTensor): void {
    this.#doneBytes += tensor.bytes;
    const { onProgress } = this.#options;
    onProgress?.({ tensor: tensor.name, doneBytes: this.#doneBytes, totalBytes: this.totalBytes });
  }
}
