// The small kernels around an adapter's products: A stacked below W, B turned beside W, t and g put in their places. They
// move what the adapter adds, a few columns of a product's operands.

import type { RankRange } from "../../ops/rank-range.ts";
import { BYTES_PER_ELEMENT, type DType } from "../../tensor/dtype.ts";
import { rowSlice, type Tensor } from "../../tensor/tensor.ts";
import { addressOf } from "./buffer.ts";
import type { CudaDevice, Step } from "./device.ts";
import { THREADS } from "./elementwise.ts";
import { elementType, inOrder } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { NOTHING } from "./products.ts";
import { widthFor } from "./walk.ts";

const FILE = "adapted-linears.cu";
const MOST_LINEARS = 4;
const TURN_TILE = 32;
const TURN_THREADS = [32, 8] as const;

/** Columns that an adapter of this rank takes as part of a product: whole 16 bytes, what tensor cores load at once. */
export function paddedRank(rank: number, dtype: DType): number {
  const unit = 16 / BYTES_PER_ELEMENT[dtype];
  return Math.ceil(rank / unit) * unit;
}

const LINE_BYTES = 128;

/** As many columns as fill whole cache lines: products lose 5 % where rows do not start on one. */
export function wholeLines(columns: number, dtype: DType): number {
  const unit = LINE_BYTES / BYTES_PER_ELEMENT[dtype];
  return Math.ceil(columns / unit) * unit;
}

/** Ranges that the adapter acts on. */
export const activeRanges = (ranges: readonly RankRange[]): RankRange[] =>
  ranges.filter(({ from, to, rank }) => rank > 0 && from < to);

/** `ranges` in order with the rows between and around them as ranges of rank 0, so that every row is in one. */
export function coverRows(ranges: readonly RankRange[], rows: number): RankRange[] {
  const covered: RankRange[] = [];
  let end = 0;
  for (const range of [...activeRanges(ranges), { from: rows, to: rows, rank: 0, scale: 0 }]) {
    if (range.from > end) covered.push({ from: end, to: range.from, rank: 0, scale: 0 });
    if (range.to > range.from) covered.push(range);
    end = range.to;
  }
  return covered;
}

/** Rows < rank of each matrix below one another in `to`, each padded with zeros to as many rows. */
export function stackRows(device: CudaDevice, from: readonly Tensor[], rank: number, to: Tensor): Step {
  const padded = to.rows / from.length;
  const width = widthFor(to.cols, [...from, to]);
  const packs = to.cols / width;
  const kernel = device.function(FILE, "stack_rows", {
    TYPE: elementType(to),
    FROM: elementType(from[0]!),
    WIDTH: width,
  });
  const args = kernelArguments().structure(matrices(from)).integers(rank, padded).tensors(to).longs(to.stride);
  return device.launchEarly(kernel, [Math.ceil(packs / THREADS), padded, from.length], THREADS, args.integers(packs));
}

/** to[m][j] = from[j][m] for j < rank, 0 in its other columns. */
export function turnRows(device: CudaDevice, from: Tensor, rank: number, to: Tensor): Step {
  const kernel = device.function(FILE, "turn_rows", { TYPE: elementType(to), FROM: elementType(from), WIDTH: 1 });
  const args = kernelArguments().tensors(from).longs(from.stride).integers(rank, to.cols).tensors(to);
  const grid = [Math.ceil(to.rows / TURN_TILE), Math.ceil(to.cols / TURN_TILE)] as const;
  return device.launchEarly(kernel, grid, TURN_THREADS, args.longs(to.stride).integers(to.rows));
}

export interface Placing {
  /** [N, columns]: units of `padded` columns, one per adapter. */
  readonly from: Tensor;
  readonly padded: number;
  /** [N, columns], or null. */
  readonly to: Tensor | null;
  /** The saved t of the one adapter in `from`, or null. */
  readonly named: Tensor | null;
  /** Whether `from` holds the scaled products already. */
  readonly scaled?: boolean;
}

/** Scaled products in their places, range by range; zeros in `to` where no adapter acts. */
export function placeProducts(device: CudaDevice, place: Placing, ranges: readonly RankRange[]): Step {
  return inOrder(...coverRows(ranges, place.from.rows).map((range) => placeRange(device, place, range)));
}

function placeRange(device: CudaDevice, place: Placing, { from: first, to: end, rank, scale }: RankRange): Step {
  if (!place.to && rank === 0) return NOTHING;
  const part = (tensor: Tensor | null) => tensor && rowSlice(tensor, first, end);
  const [from, to, named] = [part(place.from)!, part(place.to), part(place.named)];
  const kernel = device.function(FILE, "place_products", {
    TYPE: elementType((to ?? named)!),
    FROM: elementType(from),
    WIDTH: 1,
  });
  const columns = to?.cols ?? place.padded;
  const args = kernelArguments().tensors(from).longs(from.stride).integers(from.rows, columns, place.padded, rank);
  args
    .floats(place.scaled ? 1 : scale)
    .tensors(to)
    .longs(to?.stride ?? 0);
  args.tensors(named).longs(named?.stride ?? 0);
  return device.launchEarly(kernel, [Math.ceil((from.rows * columns) / THREADS)], THREADS, args);
}

/** Adds to each matrix its rows of `from`, where they lie `padded` rows apart. */
export function addRows(device: CudaDevice, from: Tensor, padded: number, to: readonly Tensor[], rank: number): Step {
  const width = widthFor(from.cols, [...to, from]);
  const packs = from.cols / width;
  const kernel = device.function(FILE, "add_rows", { TYPE: "float", FROM: "float", WIDTH: width });
  const args = kernelArguments()
    .tensors(from)
    .longs(from.stride)
    .integers(padded)
    .structure(matrices(to))
    .integers(packs);
  return device.launchEarly(kernel, [Math.ceil(packs / THREADS), rank, to.length], THREADS, args);
}

/** Every row of y becomes the bias, or zeros. */
export function fillRows(device: CudaDevice, bias: Tensor | null, y: Tensor): Step {
  const width = widthFor(y.cols, bias ? [bias, y] : [y]);
  const packs = y.cols / width;
  const kernel = device.function(FILE, "fill_rows", { TYPE: elementType(y), FROM: "float", WIDTH: width });
  const args = kernelArguments().tensors(bias, y).longs(y.stride).integers(packs);
  return device.launchEarly(kernel, [Math.ceil(packs / THREADS), y.rows], THREADS, args);
}

/** The structure Matrices of the kernels. */
function matrices(tensors: readonly Tensor[]): Uint32Array {
  const words = new BigUint64Array(2 * MOST_LINEARS);
  for (const [i, tensor] of tensors.entries()) {
    words[i] = BigInt(addressOf(tensor));
    words[MOST_LINEARS + i] = BigInt(tensor.stride);
  }
  return new Uint32Array(words.buffer);
}
