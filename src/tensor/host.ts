// Host memory: the buffers of the reference backend, and what tests and file readers build tensors from.

import { QdlError } from "../errors.ts";
import { BYTES_PER_ELEMENT, type DType, fromBf16, toBf16 } from "./dtype.ts";
import { colSlice, type DeviceBuffer, matrix, type Tensor } from "./tensor.ts";

export class HostBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly label: string;
  #data: ArrayBuffer | null;
  readonly #onDispose: ((buffer: HostBuffer) => void) | undefined;

  constructor(bytes: number, label: string, onDispose?: (buffer: HostBuffer) => void) {
    this.bytes = bytes;
    this.label = label;
    this.#data = new ArrayBuffer(bytes);
    this.#onDispose = onDispose;
  }

  get disposed(): boolean {
    return this.#data === null;
  }

  /** The memory itself. Throws TENSOR_STALE after `dispose`. */
  get data(): ArrayBuffer {
    if (this.#data === null)
      throw new QdlError("TENSOR_STALE", `buffer "${this.label}" was used after it was released`);
    return this.#data;
  }

  dispose(): void {
    if (this.#data === null) return;
    this.#data = null;
    this.#onDispose?.(this);
  }
}

/** Values of one row-major matrix in plain numbers, read from a host tensor. Length rows·cols, gaps dropped. */
export function readMatrix(tensor: Tensor): Float64Array {
  const { rows, cols } = tensor;
  const out = new Float64Array(rows * cols);
  const source = elements(tensor);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < cols; c++) {
      const raw = source[r * tensor.stride + c]!;
      out[r * cols + c] = tensor.dtype === "bf16" ? fromBf16(raw) : raw;
    }
  return out;
}

/** Writes rows·cols plain numbers into a host tensor, rounding to its dtype (bf16: to nearest even). */
export function writeMatrix(tensor: Tensor, values: ArrayLike<number>): void {
  const target = elements(tensor);
  for (let r = 0; r < tensor.rows; r++)
    for (let c = 0; c < tensor.cols; c++) {
      const value = values[r * tensor.cols + c]!;
      target[r * tensor.stride + c] = tensor.dtype === "bf16" ? toBf16(value) : value;
    }
}

/** A new dense host tensor holding `values`. */
export function hostTensor(
  dtype: DType,
  rows: number,
  cols: number,
  values?: ArrayLike<number>,
  label = "host",
): Tensor {
  const tensor = matrix(new HostBuffer(rows * cols * BYTES_PER_ELEMENT[dtype], label), dtype, rows, cols);
  if (values) writeMatrix(tensor, values);
  return tensor;
}

/** The same matrices as column blocks of one dense host matrix, in order. All have one dtype and row count. */
export function sideBySide(parts: readonly Tensor[]): Tensor[] {
  const { dtype, rows } = parts[0]!;
  const cols = parts.reduce((sum, part) => sum + part.cols, 0);
  const whole = hostTensor(dtype, rows, cols);
  let from = 0;
  return parts.map((part) => {
    const block = colSlice(whole, from, from + part.cols);
    from += part.cols;
    writeMatrix(block, readMatrix(part));
    return block;
  });
}

type Elements = Float64Array | Float32Array | Uint16Array | Int32Array | Uint8Array;

/** The tensor's memory from its first element on, as a typed array; bf16 as raw 16-bit words. */
function elements(tensor: Tensor): Elements {
  const { data } = tensor.buffer as HostBuffer;
  const length = tensor.rows === 0 ? 0 : (tensor.rows - 1) * tensor.stride + tensor.cols;
  switch (tensor.dtype) {
    case "f64":
      return new Float64Array(data, tensor.offset, length);
    case "f32":
      return new Float32Array(data, tensor.offset, length);
    case "bf16":
      return new Uint16Array(data, tensor.offset, length);
    case "i32":
      return new Int32Array(data, tensor.offset, length);
    case "u8":
      return new Uint8Array(data, tensor.offset, length);
  }
}
