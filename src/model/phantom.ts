// Buffers without memory: shapes for planning and estimates before anything is loaded.

import type { DType } from "../tensor/dtype.ts";
import type { DeviceBuffer, Tensor } from "../tensor/tensor.ts";

export function phantomBuffer(label: string): DeviceBuffer {
  return { bytes: Number.MAX_SAFE_INTEGER, label, disposed: false, dispose() {} };
}

/** A tensor that has a shape and no memory. */
export function phantomTensor(dtype: DType, rows: number, cols: number): Tensor {
  return { buffer: phantomBuffer("phantom"), offset: 0, rows, cols, stride: cols, dtype };
}
