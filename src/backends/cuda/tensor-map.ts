// Tensor maps: what Hopper's copy engine needs to know of a matrix to bring tiles of it into shared memory.

import type { Tensor } from "../../tensor/tensor.ts";
import { type NativeBlock, nativeBlock } from "../native.ts";
import { addressOf } from "./buffer.ts";
import type { Driver } from "./driver.ts";

const MAP_BYTES = 128;
const MAP_ALIGNMENT = 64;
/** Columns of a box: 128 bytes, the width of the swizzle. */
export const BOX_COLUMNS = 64;

// Values of the driver's enumerations.
const BFLOAT16 = 9;
const NOT_INTERLEAVED = 0;
const SWIZZLE_128_BYTES = 3;
const PROMOTE_TO_128_BYTES = 2;
const FILL_WITH_ZEROS = 0;

let room: NativeBlock | undefined;

/**
 * The map (CUtensorMap, as words) of a bf16 matrix [rows, heads·headDim] as [rows, heads, headDim], to be copied in boxes of
 * `boxRows` rows (256 at most) and 64 columns of one head. The matrix has a row, and its rows start on 16 bytes.
 */
export function tensorMap(driver: Driver, tensor: Tensor, headDim: number, boxRows: number): Uint32Array {
  room ??= nativeBlock(MAP_BYTES + MAP_ALIGNMENT);
  const at = (MAP_ALIGNMENT - (room.address % MAP_ALIGNMENT)) % MAP_ALIGNMENT;
  // The distance of rows must be a multiple of 16 bytes even where there is one row.
  const rowElements = tensor.rows > 1 ? tensor.stride : tensor.cols;
  driver.checked.tensorMapEncodeTiled(
    room.address + at,
    BFLOAT16,
    3,
    addressOf(tensor),
    BigUint64Array.of(BigInt(headDim), BigInt(tensor.cols / headDim), BigInt(tensor.rows)),
    BigUint64Array.of(BigInt(2 * headDim), BigInt(2 * rowElements)),
    Uint32Array.of(BOX_COLUMNS, 1, boxRows),
    Uint32Array.of(1, 1, 1),
    NOT_INTERLEAVED,
    SWIZZLE_128_BYTES,
    PROMOTE_TO_128_BYTES,
    FILL_WITH_ZEROS,
  );
  return new Uint32Array(room.view.buffer.slice(room.view.byteOffset + at, room.view.byteOffset + at + MAP_BYTES));
}
