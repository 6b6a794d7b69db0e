// A tensor is a view: it never owns memory. Everything is a matrix of `rows` × `cols`; a vector has one row or one
// column. Rows may have a stride larger than their width, so that a slice of columns or the first b rows of an adapter
// is a view and not a copy.

import { QdlError } from "../errors.ts";
import { BYTES_PER_ELEMENT, type DType } from "./dtype.ts";

/** Memory of one backend. Whoever called `alloc` owns it and disposes it; views do not keep it alive. */
export interface DeviceBuffer {
  readonly bytes: number;
  readonly label: string;
  readonly disposed: boolean;
  dispose(): void;
}

export interface Tensor {
  readonly buffer: DeviceBuffer;
  /** Offset of the first element from the start of the buffer, in bytes. */
  readonly offset: number;
  readonly rows: number;
  readonly cols: number;
  /** Distance between rows, in elements; ≥ cols. */
  readonly stride: number;
  readonly dtype: DType;
}

export function isTensor(value: unknown): value is Tensor {
  return typeof value === "object" && value !== null && "buffer" in value && "stride" in value && "dtype" in value;
}

/** A dense matrix at `offset` (bytes) of `buffer`. Throws OP_ARGUMENT if it does not fit. */
export function matrix(
  buffer: DeviceBuffer,
  dtype: DType,
  rows: number,
  cols: number,
  offset = 0,
  stride = cols,
): Tensor {
  const tensor: Tensor = { buffer, offset, rows, cols, stride, dtype };
  if (offset + spanBytes(tensor) > buffer.bytes || stride < cols || offset < 0)
    throw new QdlError(
      "OP_ARGUMENT",
      `tensor ${rows}×${cols} (${dtype}, stride ${stride}) at byte ${offset} does not fit in ${buffer.label} (${buffer.bytes} bytes)`,
    );
  return tensor;
}

/** Rows from..to−1 as a view. */
export function rowSlice(tensor: Tensor, from: number, to: number): Tensor {
  if (from < 0 || to < from || to > tensor.rows)
    throw new QdlError("OP_ARGUMENT", `rows ${from}..${to} are outside a tensor of ${tensor.rows} rows`);
  return { ...tensor, offset: tensor.offset + from * tensor.stride * BYTES_PER_ELEMENT[tensor.dtype], rows: to - from };
}

/** Columns from..to−1 as a view. */
export function colSlice(tensor: Tensor, from: number, to: number): Tensor {
  if (from < 0 || to < from || to > tensor.cols)
    throw new QdlError("OP_ARGUMENT", `columns ${from}..${to} are outside a tensor of ${tensor.cols} columns`);
  return { ...tensor, offset: tensor.offset + from * BYTES_PER_ELEMENT[tensor.dtype], cols: to - from };
}

/** Bytes from the first to the last element, gaps between rows included. */
export function spanBytes(tensor: Tensor): number {
  if (tensor.rows === 0 || tensor.cols === 0) return 0;
  return ((tensor.rows - 1) * tensor.stride + tensor.cols) * BYTES_PER_ELEMENT[tensor.dtype];
}
