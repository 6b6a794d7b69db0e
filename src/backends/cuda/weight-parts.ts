// Parts of weights that are too large to be decoded whole: the same scratch serves one part after the other.

import {
  type DenseWeight,
  type FourBitWeight,
  type FrozenWeight,
  QUANT_BLOCK,
  SCALE_BLOCK,
} from "../../ops/frozen-weight.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import { rowSlice, type Tensor } from "../../tensor/tensor.ts";

/** The most scratch that decoded weights of one product take: half of Falcon-40B's largest, its adapter's columns included. */
export const DECODED_BYTES = 264 << 20;
/** Rows and columns of parts are whole tiles of the products. */
const TILE = 128;

/** From..to−1 of rows or columns. */
export interface Part {
  readonly from: number;
  readonly to: number;
}

/** About equal parts of `size`, each of whole units and at most `limit` if one unit is. */
export function partsOf(size: number, unit: number, limit: number): Part[] {
  const most = Math.max(unit, Math.floor(limit / unit) * unit);
  const each = Math.ceil(Math.ceil(size / Math.ceil(size / most)) / unit) * unit;
  return Array.from({ length: Math.ceil(size / each) }, (_, i) => ({
    from: i * each,
    to: Math.min(size, (i + 1) * each),
  }));
}

/** Parts of a weight's rows, of which each takes `rowBytes` when it is decoded. */
export function rowParts(weight: FrozenWeight, rowBytes: number, bytes: number): Part[] {
  return partsOf(weight.rows, leastCommonMultiple(TILE, rowsBetweenScales(weight)), bytes / rowBytes);
}

/** Parts of the columns of `rows` decoded rows. */
export function columnParts(cols: number, rows: number, elementBytes: number, bytes: number): Part[] {
  return partsOf(cols, TILE, bytes / (rows * elementBytes));
}

/** Rows of a weight that are a weight by themselves. */
export function rowsOfWeight<W extends DenseWeight | FourBitWeight>(weight: W, { from, to }: Part): W {
  const rows = to - from;
  if (rows === weight.rows) return weight;
  if ("values" in weight) return { ...weight, rows, values: rowSlice(weight.values, from, to) };
  const { cols, codes, scales } = weight as FourBitWeight;
  const first = from * cols;
  const values = rows * cols;
  const blocks = Math.ceil(values / QUANT_BLOCK);
  const absmax = (tensor: Tensor) => stretch(tensor, first / QUANT_BLOCK, blocks);
  const own =
    scales.kind === "plain"
      ? { ...scales, absmax: absmax(scales.absmax) }
      : {
          ...scales,
          codes: absmax(scales.codes),
          absmax2: stretch(scales.absmax2, first / QUANT_BLOCK / SCALE_BLOCK, Math.ceil(blocks / SCALE_BLOCK)),
        };
  return { ...weight, rows, codes: stretch(codes, first / 2, Math.ceil(values / 2)), scales: own };
}

/** Elements of a [1, *] tensor. */
const stretch = (tensor: Tensor, from: number, count: number): Tensor => ({
  ...tensor,
  offset: tensor.offset + from * BYTES_PER_ELEMENT[tensor.dtype],
  cols: count,
  stride: count,
});

/** After so many rows both levels of scales begin anew. */
function rowsBetweenScales(weight: FrozenWeight): number {
  if (!("codes" in weight)) return 1;
  const values = QUANT_BLOCK * (weight.scales.kind === "double" ? SCALE_BLOCK : 1);
  return values / greatestCommonDivisor(values, weight.cols);
}

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));
const leastCommonMultiple = (a: number, b: number): number => (a / greatestCommonDivisor(a, b)) * b;
