// The frozen weight of one linear, [M, K] row-major, in any base format. Never trained, so it has no gradient.

import type { DType } from "../tensor/dtype.ts";
import { readMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { CODE_BOOKS } from "./code-books.ts";
import { broken, type Named } from "./op.ts";

export type BaseFormat = "nf4" | "fp4" | "bf16" | "f32";

export interface DenseWeight {
  readonly format: "bf16" | "f32";
  /** M, out-features. */
  readonly rows: number;
  /** K, in-features. */
  readonly cols: number;
  /** [M, K] in `format`. */
  readonly values: Tensor;
}

/** Scales of blocks of 64 consecutive values (row-major; blocks may cross rows when 64 does not divide K). */
export type BlockScales =
  /** absmax f32 [1, blocks] */
  | { readonly kind: "plain"; readonly absmax: Tensor }
  /**
   * Double quantisation (QLoRA §3; bitsandbytes): absmax[i] = map[codes[i]]·absmax2[i div 256] + offset.
   * codes u8 [1, blocks], absmax2 f32 [1, ceil(blocks/256)], map f32 [1, 256]; offset = mean of all absmax.
   */
  | {
      readonly kind: "double";
      readonly codes: Tensor;
      readonly absmax2: Tensor;
      readonly map: Tensor;
      readonly offset: number;
    };

export interface FourBitWeight {
  readonly format: "nf4" | "fp4";
  readonly rows: number;
  readonly cols: number;
  /** u8 [1, ceil(M·K/2)]: two codes a byte, the first value in the HIGH nibble. */
  readonly codes: Tensor;
  readonly scales: BlockScales;
}

/** No base product: the adapter alone. Stands for the second half of a linear whose adapter reads another x (dropout). */
export interface ZeroWeight {
  readonly format: "zero";
  readonly rows: number;
  readonly cols: number;
}

export type FrozenWeight = DenseWeight | FourBitWeight | ZeroWeight;

/** Values that share one scale. */
export const QUANT_BLOCK = 64;
/** Scales that share one second-level scale under double quantisation. */
export const SCALE_BLOCK = 256;

/** Checks the parts of a weight against each other: formats, dtypes and lengths. */
export function checkFrozenWeight(op: Named, name: string, weight: FrozenWeight): void {
  const { rows, cols } = weight;
  if (!Number.isInteger(rows) || rows < 1) throw broken(op, `${name}.rows`, "a whole number ≥ 1", rows);
  if (!Number.isInteger(cols) || cols < 1) throw broken(op, `${name}.cols`, "a whole number ≥ 1", cols);
  switch (weight.format) {
    case "bf16":
    case "f32":
      checkPart(op, `${name}.values`, weight.values, weight.format, rows, cols);
      break;
    case "nf4":
    case "fp4":
      checkPart(op, `${name}.codes`, weight.codes, "u8", 1, Math.ceil((rows * cols) / 2));
      checkScales(op, `${name}.scales`, weight.scales, Math.ceil((rows * cols) / QUANT_BLOCK));
      break;
    case "zero":
      break;
    default:
      throw broken(op, `${name}.format`, "nf4, fp4, bf16, f32 or zero", (weight as { format: unknown }).format);
  }
}

function checkScales(op: Named, name: string, scales: BlockScales, blocks: number): void {
  switch (scales.kind) {
    case "plain":
      checkPart(op, `${name}.absmax`, scales.absmax, "f32", 1, blocks);
      break;
    case "double":
      checkPart(op, `${name}.codes`, scales.codes, "u8", 1, blocks);
      checkPart(op, `${name}.absmax2`, scales.absmax2, "f32", 1, Math.ceil(blocks / SCALE_BLOCK));
      checkPart(op, `${name}.map`, scales.map, "f32", 1, 256);
      if (!Number.isFinite(scales.offset)) throw broken(op, `${name}.offset`, "a finite number", scales.offset);
      break;
    default:
      throw broken(op, `${name}.kind`, "plain or double", (scales as { kind: unknown }).kind);
  }
}

function checkPart(op: Named, name: string, tensor: Tensor, dtype: DType, rows: number, cols: number): void {
  if (tensor.dtype !== dtype) throw broken(op, `${name}.dtype`, dtype, tensor.dtype);
  if (tensor.rows !== rows || tensor.cols !== cols)
    throw broken(op, name, `${rows}×${cols}`, `${tensor.rows}×${tensor.cols}`);
}

/** absmax of every block in f32, rounded after the product and after the sum: the order of bitsandbytes. Host tensors only. */
export function decodeScales(scales: BlockScales): Float64Array {
  if (scales.kind === "plain") return readMatrix(scales.absmax);
  const map = readMatrix(scales.map);
  const absmax2 = readMatrix(scales.absmax2);
  const offset = Math.fround(scales.offset);
  return readMatrix(scales.codes).map((code, i) => {
    const centred = Math.fround(map[code]! * absmax2[Math.floor(i / SCALE_BLOCK)]!);
    return Math.fround(centred + offset);
  });
}

/** W [M, K] in plain numbers: exactly the f32 values that every backend must decode. Host tensors only. */
export function decodeWeight(weight: FrozenWeight): Float64Array {
  if (weight.format === "zero") return new Float64Array(weight.rows * weight.cols);
  if ("values" in weight) return readMatrix(weight.values);
  const table = CODE_BOOKS[weight.format];
  const absmax = decodeScales(weight.scales);
  const bytes = readMatrix(weight.codes);
  const values = new Float64Array(weight.rows * weight.cols);
  for (let i = 0; i < values.length; i++) {
    const byte = bytes[i >> 1]!;
    const code = i % 2 === 0 ? byte >> 4 : byte & 15;
    values[i] = Math.fround(table[code]! * absmax[Math.floor(i / QUANT_BLOCK)]!);
  }
  return values;
}
