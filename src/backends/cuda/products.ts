// Matrix products on views of device memory, and the casts that bring operands to one dtype.

import type { DType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { addressOf } from "./buffer.ts";
import type { ProductDtype } from "./cublaslt.ts";
import type { CudaDevice, Step } from "./device.ts";
import { blocksOf, THREADS } from "./elementwise.ts";
import { elementType } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import type { Room } from "./room.ts";
import { walkElements } from "./walk.ts";

export const NOTHING: Step = () => {};

export interface ProductOf {
  /** [m, n] */
  readonly c: Tensor;
  /** [m, k]; [k, m] with transposeA */
  readonly a: Tensor;
  /** [k, n]; [n, k] with transposeB */
  readonly b: Tensor;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly alpha?: number;
  /** 1: adds to c. */
  readonly beta?: 0 | 1;
  /** [1, n] in c's dtype, on whole 16 bytes: added to every row before rounding. */
  readonly bias?: Tensor | null;
}

/** c = alpha·a·b (+ c) (+ bias), summed in f32. */
export function product(device: CudaDevice, of: ProductOf): Step {
  const { c, a, b, transposeA = false, transposeB = false, alpha = 1, beta = 0, bias = null } = of;
  if (c.rows === 0 || c.cols === 0) return NOTHING;
  const shape = {
    m: c.rows,
    n: c.cols,
    k: transposeA ? a.rows : a.cols,
    transposeA,
    transposeB,
    strideA: a.stride,
    strideB: b.stride,
    strideC: c.stride,
    inputs: productDtype(a),
    output: productDtype(c),
    ...(bias && { biased: true }),
  };
  const operands = { a: addressOf(a), b: addressOf(b), c: addressOf(c), alpha, beta };
  return device.products.prepare(shape, bias ? { ...operands, bias: addressOf(bias) } : operands);
}

const productDtype = (tensor: Tensor): ProductDtype => (elementType(tensor) === "bf16" ? "bf16" : "f32");

/** to = from, rounded to its dtype. */
export function castTo(device: CudaDevice, from: Tensor, to: Tensor): Step {
  const walk = walkElements(from, to);
  const kernel = device.function("cast.cu", "cast", {
    X_TYPE: elementType(from),
    Y_TYPE: elementType(to),
    WIDTH: walk.width,
  });
  const args = kernelArguments().tensors(from).longs(walk.strides[0]!).tensors(to).longs(walk.strides[1]!);
  return device.launch(kernel, [blocksOf(walk)], THREADS, args.integers(walk.rows, walk.packs));
}

/** The dtype in which tensors can meet in one product: bf16 if all are. */
export const meetingDtype = (...tensors: readonly Tensor[]): "bf16" | "f32" =>
  tensors.every(({ dtype }) => dtype === "bf16") ? "bf16" : "f32";

/** Room for a tensor in another dtype; the tensor itself where it has that one. */
export const roomAs = (room: Room, tensor: Tensor, dtype: DType): Tensor =>
  tensor.dtype === dtype ? tensor : room.take(dtype, tensor.rows, tensor.cols);

/** Fills what `roomAs` gave. */
export const bring = (device: CudaDevice, from: Tensor, to: Tensor): Step =>
  from === to ? NOTHING : castTo(device, from, to);
