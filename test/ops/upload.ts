// Puts the tensors of a sample into a backend's memory, each in a buffer of its own between guard bytes (those that share a
// host buffer, as column blocks of one matrix, stay side by side), in different layouts; and checks afterwards that nobody
// wrote outside the elements.

import type { Backend } from "../../src/backends/backend.ts";
import { mapTensors, type OpArgs, tensorsOf } from "../../src/ops/op.ts";
import { BYTES_PER_ELEMENT } from "../../src/tensor/dtype.ts";
import { HostBuffer } from "../../src/tensor/host.ts";
import { type DeviceBuffer, spanBytes, type Tensor } from "../../src/tensor/tensor.ts";

export interface Layout {
  readonly name: string;
  /** Bytes before the first element, given the element's size. */
  offset(elementBytes: number): number;
  /** Elements from row to row. */
  stride(cols: number, elementBytes: number): number;
  /** Fills everything that is not an element. 0xff reads as NaN, 0x7f as about 3e38: reading it shows in the result. */
  readonly guard: number;
}

const GUARD_BYTES = 64;

export const DENSE: Layout = { name: "dense", offset: () => GUARD_BYTES, stride: (cols) => cols, guard: 0xff };

/** As DENSE with other guards: a repeat must give the same bits. */
export const DENSE_AGAIN: Layout = { ...DENSE, name: "dense again", guard: 0x7f };

/** Aligned to elements only: offset and row pitch are odd multiples of the element. */
export const ODD: Layout = {
  name: "odd offset and row pitch",
  offset: (elementBytes) => GUARD_BYTES + elementBytes,
  stride: (cols) => cols + 3 + (cols % 2),
  guard: 0xff,
};

/** Rows start on cache lines, with a gap between them. */
export const ALIGNED: Layout = {
  name: "aligned rows with gaps",
  offset: () => 2 * GUARD_BYTES,
  stride: (cols, elementBytes) => ((Math.ceil((cols * elementBytes) / 64) + 1) * 64) / elementBytes,
  guard: 0xff,
};

/** A sample in device memory, with the bytes that were put there. */
export interface Upload<A> {
  readonly args: A;
  readonly images: ReadonlyMap<DeviceBuffer, Uint8Array>;
  dispose(): void;
}

export function upload<A extends OpArgs>(backend: Backend, host: A, layout: Layout): Upload<A> {
  const placed = new Map<DeviceBuffer, Tensor>();
  const images = new Map<DeviceBuffer, Uint8Array>();
  for (const { tensor, name } of tensorsOf(host)) {
    if (placed.has(tensor.buffer)) continue;
    const { image, view } = place(wholeOf(tensor), layout);
    const buffer = backend.alloc(image.byteLength, name);
    backend.write(buffer, 0, image);
    placed.set(tensor.buffer, { ...view, buffer });
    images.set(buffer, image);
  }
  return {
    args: mapTensors(host, (tensor) => {
      const whole = placed.get(tensor.buffer)!;
      return { ...whole, cols: tensor.cols, offset: whole.offset + tensor.offset };
    }),
    images,
    dispose: () => {
      for (const buffer of images.keys()) buffer.dispose();
    },
  };
}

/** The same bytes and views in the backend's memory, however wrong they are. */
export function uploadAsIs<A extends OpArgs>(backend: Backend, host: A): Upload<A> {
  const images = new Map<DeviceBuffer, Uint8Array>();
  const buffers = new Map<DeviceBuffer, DeviceBuffer>();
  for (const { tensor, name } of tensorsOf(host)) {
    if (buffers.has(tensor.buffer)) continue;
    const image = new Uint8Array((tensor.buffer as HostBuffer).data).slice();
    const buffer = backend.alloc(image.byteLength, name);
    backend.write(buffer, 0, image);
    buffers.set(tensor.buffer, buffer);
    images.set(buffer, image);
  }
  return {
    args: mapTensors(host, (tensor) => ({ ...tensor, buffer: buffers.get(tensor.buffer)! })),
    images,
    dispose: () => {
      for (const buffer of images.keys()) buffer.dispose();
    },
  };
}

/** The dense matrix of which a sample's tensor is a block of columns; nearly always the tensor itself. */
const wholeOf = (tensor: Tensor): Tensor => ({ ...tensor, offset: 0, cols: tensor.stride });

function place(tensor: Tensor, layout: Layout): { image: Uint8Array; view: Tensor } {
  const elementBytes = BYTES_PER_ELEMENT[tensor.dtype];
  // A single row is dense: quantised storage and vectors have no gaps.
  const stride = tensor.rows === 1 ? tensor.cols : layout.stride(tensor.cols, elementBytes);
  const view = { ...tensor, offset: layout.offset(elementBytes), stride };
  const image = new Uint8Array(view.offset + spanBytes(view) + GUARD_BYTES).fill(layout.guard);
  const source = new Uint8Array((tensor.buffer as HostBuffer).data);
  for (let row = 0; row < tensor.rows; row++) {
    const from = tensor.offset + row * tensor.stride * elementBytes;
    image.set(source.subarray(from, from + tensor.cols * elementBytes), view.offset + row * stride * elementBytes);
  }
  return { image, view };
}

/** A tensor read back, as a host tensor with the same layout. */
export async function download(backend: Backend, tensor: Tensor): Promise<Tensor> {
  const bytes = await backend.read(tensor.buffer, 0, tensor.buffer.bytes);
  const buffer = new HostBuffer(bytes.byteLength, "read back");
  new Uint8Array(buffer.data).set(bytes);
  return { ...tensor, buffer };
}

export const bytesOfBuffer = (tensor: Tensor): Uint8Array => new Uint8Array((tensor.buffer as HostBuffer).data);

/** The elements' bytes of a host tensor, gaps dropped. */
export function elementBytes({ buffer, offset, rows, cols, stride, dtype }: Tensor): Uint8Array {
  const size = BYTES_PER_ELEMENT[dtype];
  const source = new Uint8Array((buffer as HostBuffer).data);
  const out = new Uint8Array(rows * cols * size);
  for (let row = 0; row < rows; row++) {
    const from = offset + row * stride * size;
    out.set(source.subarray(from, from + cols * size), row * cols * size);
  }
  return out;
}

/** The first byte that changed outside the elements of all `views`, or −1. */
export function firstForeignWrite(before: Uint8Array, after: Uint8Array, views: readonly Tensor[]): number {
  if (before.length !== after.length) return Math.min(before.length, after.length);
  return before.findIndex((byte, i) => byte !== after[i] && !views.some((view) => holds(view, i)));
}

/** Whether byte `at` of its buffer belongs to an element of `view`. */
function holds(view: Tensor, at: number): boolean {
  const size = BYTES_PER_ELEMENT[view.dtype];
  if (at < view.offset || at >= view.offset + spanBytes(view)) return false;
  return (at - view.offset) % (view.stride * size) < view.cols * size;
}
