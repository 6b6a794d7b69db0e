// The ops on 4-bit weights, and the decoding of any frozen weight that the linears use.

import { CODE_BOOKS, FP4_CODES, FP4_THRESHOLDS, NF4_MIDPOINTS } from "../../ops/code-books.ts";
import { type DenseWeight, type FourBitWeight, SCALE_BLOCK } from "../../ops/frozen-weight.ts";
import { colSlice, type Tensor } from "../../tensor/tensor.ts";
import type { KernelTable } from "../backend.ts";
import { addressOf } from "./buffer.ts";
import type { CudaDevice, Step } from "./device.ts";
import { THREADS } from "./elementwise.ts";
import { elementType, inOrder, prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { castTo } from "./products.ts";

/** Weights that a thread decodes from one 32-bit word of codes, and how many words it takes. */
const WORD_WEIGHTS = 8;
const WORDS = 4;
/** One warp quantises one block of 64. */
const WARP = 32;
const QUANTIZE_BLOCKS = THREADS / WARP;
const MEAN_THREADS = 1024;

export function quantizationKernels(device: CudaDevice) {
  return {
    dequantize: prepared(device, "dequantize", ({ weight, y }) =>
      // validate() has refused the weight that is zero.
      decodeInto(device, weight as DenseWeight | FourBitWeight, y),
    ),
    quantize4bit: prepared(device, "quantize4bit", ({ w, codes, absmax, format }) => {
      const kernel = device.function("quantize-4bit.cu", "quantize_4bit", {
        FROM: elementType(w),
        FP4: flag(format === "fp4"),
      });
      const thresholds = format === "nf4" ? NF4_MIDPOINTS : FP4_THRESHOLDS;
      const rule = new Uint32Array(24);
      rule.set(new Uint32Array(Float32Array.from(thresholds).buffer));
      rule.set(FP4_CODES, 16);
      const args = kernelArguments()
        .tensors(w)
        .longs(w.stride)
        .integers(w.cols)
        .longs(w.rows * w.cols);
      args.tensors(codes, absmax).structure(rule);
      return device.launch(kernel, [Math.ceil(absmax.cols / QUANTIZE_BLOCKS)], THREADS, args);
    }),
    quantizeScales: prepared(device, "quantizeScales", ({ absmax, map, codes, absmax2, offset }) => {
      const function_ = (name: string) => device.function("quantize-scales.cu", name);
      const mean = kernelArguments().tensors(absmax).integers(absmax.cols).tensors(offset);
      const args = kernelArguments().tensors(absmax).integers(absmax.cols).tensors(map, offset, codes, absmax2);
      return inOrder(
        device.launch(function_("mean_of_scales"), [1], MEAN_THREADS, mean),
        device.launch(function_("quantize_scales"), [absmax2.cols], SCALE_BLOCK, args),
      );
    }),
  } satisfies Partial<KernelTable>;
}

const flag = (value: boolean): 0 | 1 => (value ? 1 : 0);

/** y = the columns of deq(W) from `column` on, as many as y has, rounded to its dtype. y may be a block of columns of wider rows. */
export function decodeInto(device: CudaDevice, weight: DenseWeight | FourBitWeight, y: Tensor, column = 0): Step {
  if ("values" in weight) return castTo(device, colSlice(weight.values, column, column + y.cols), y);
  const whole = y.cols === weight.cols;
  const width = decodeWidth(weight, y, column);
  const kernel = device.function("dequantize.cu", "dequantize", {
    TYPE: elementType(y),
    WIDTH: width,
    DOUBLE: flag(weight.scales.kind === "double"),
    WHOLE: flag(whole),
  });
  const groups = (y.rows * y.cols) / width;
  const args = kernelArguments().structure(fourBitWords(weight)).tensors(y).longs(y.stride);
  args.integers(y.rows, y.cols / width);
  if (!whole) args.integers(column / width, weight.cols / width);
  return device.launchEarly(kernel, [Math.ceil(groups / (THREADS * WORDS))], THREADS, args);
}

/** Whole words where codes and rows are aligned for them, else one weight at a time. */
function decodeWidth({ codes, cols }: FourBitWeight, y: Tensor, column: number): number {
  const whole = addressOf(codes) % 4 === 0 && addressOf(y) % 16 === 0;
  const aligned = [y.cols, cols, column, y.rows === 1 ? 0 : y.stride].every((size) => size % WORD_WEIGHTS === 0);
  return whole && aligned ? WORD_WEIGHTS : 1;
}

/** The structure FourBit of kernels/four-bit.cuh. */
export function fourBitWords({ format, codes, scales }: FourBitWeight): Uint32Array {
  const double = scales.kind === "double" ? scales : null;
  const words = new Uint32Array(26);
  const pointers = [codes, double?.codes, double ? double.absmax2 : (scales as { absmax: Tensor }).absmax, double?.map];
  new BigUint64Array(words.buffer).set(pointers.map((tensor) => BigInt(tensor ? addressOf(tensor) : 0)));
  const floats = new Float32Array(words.buffer);
  floats[8] = double?.offset ?? 0;
  floats.set(CODE_BOOKS[format], 9);
  return words;
}
