// What the launches of the three attention ops share: which path of their kernels serves a call, and arguments of one kind.

import { QdlError } from "../../errors.ts";
import type { AttentionAttributes } from "../../ops/attention-heads.ts";
import type { OpName } from "../../ops/index.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { addressOf } from "./buffer.ts";
import type { CudaDevice } from "./device.ts";
import { commonType } from "./kernel.ts";
import type { Arguments } from "./launch.ts";
import type { Defines } from "./modules.ts";
import { BOX_COLUMNS, tensorMap } from "./tensor-map.ts";
import { widthFor } from "./walk.ts";

/** SIMPLE: any f32 or bf16 call. MMA: bf16 tiles by mma.sync. HOPPER: bf16 tiles by the copy engine and wgmma. */
export type Path = "SIMPLE" | "MMA" | "HOPPER";

const MOST_TILED_DIM = 256;
/** The simple path keeps two rows of f32 for each of four warps in a block's 48 KiB. */
const MOST_SIMPLE_DIM = 1024;
/** Rows are read 16 bytes at a time. */
const CHUNK = 8;
/** Windows beyond it hide nothing, as rows are counted in 31 bits. */
const NO_WINDOW = 2 ** 30;
/** Tiles of the Hopper path are compiled for these head dims; another one is padded with zeros to the next. */
const HOPPER_DIMS = [64, 80, 96, 128, 256];
const HOPPER_ARCH = 90;
/** Left to static shared memory. */
const STATIC_SHARED_BYTES = 2048;
/** Tiles start on 1024 bytes, dynamic shared memory does not. */
const TILE_ALIGNMENT = 1024;
/** The second half of an odd number of 16-column matrices is read one matrix past its row, and the sums of that are dropped. */
const MATRIX_BYTES = 32;

export interface AttentionCall extends AttentionAttributes {
  readonly path: Path;
  /** Columns of a head in tiles, zeros behind headDim. */
  readonly paddedDim: number;
  readonly heads: number;
  readonly groups: number;
  /** Query heads of a group. */
  readonly share: number;
  /** Macros of all kernels of the path. */
  readonly defines: Defines;
}

/** `all`: every tensor of the call that is read or written in rows of heads. Throws OP_UNSUPPORTED for a head dim that no path takes. */
export function attentionCall(
  device: CudaDevice,
  op: OpName,
  attributes: AttentionAttributes,
  all: readonly [q: Tensor, k: Tensor, ...others: Tensor[]],
  paths: readonly Path[] = ["HOPPER", "MMA"],
): AttentionCall {
  const { headDim, softCap } = attributes;
  const type = commonType(op, ...all);
  const tiled = widthFor(headDim, all) === CHUNK;
  const path = tiled ? pathOfShape(device, attributes, all[0], paths) : "SIMPLE";
  if (path === "SIMPLE" && headDim > MOST_SIMPLE_DIM)
    throw new QdlError("OP_UNSUPPORTED", `cuda: ${op} with headDim ${headDim}, expected at most ${MOST_SIMPLE_DIM}`);
  const paddedDim = paddedDimOf(path, headDim);
  const [heads, groups] = [all[0].cols / headDim, all[1].cols / headDim];
  const defines = {
    PATH: path,
    HEAD_DIM: headDim,
    PADDED_DIM: paddedDim,
    SOFT_CAP: softCap === null ? 0 : 1,
    TYPE: type,
  };
  return { ...attributes, path, paddedDim, heads, groups, share: heads / groups, defines };
}

/** The path of a call whose tensors are aligned. */
export function pathOfShape(
  device: CudaDevice,
  { headDim, scale }: AttentionAttributes,
  q: Tensor,
  paths: readonly Path[] = ["HOPPER", "MMA"],
): Path {
  // Tiles compare scores before they are scaled, which a negative scale would turn around.
  if (q.dtype !== "bf16" || headDim % CHUNK !== 0 || headDim > MOST_TILED_DIM || scale <= 0) return "SIMPLE";
  return device.arch === HOPPER_ARCH && paths.includes("HOPPER") ? "HOPPER" : "MMA";
}

export function paddedDimOf(path: Path, headDim: number): number {
  if (path === "SIMPLE") return headDim;
  if (path === "MMA") return Math.ceil(headDim / 16) * 16;
  return HOPPER_DIMS.find((dim) => dim >= headDim)!;
}

/** Bytes of `rows` rows of a tile in shared memory. */
export function tileBytes({ path, paddedDim }: Pick<AttentionCall, "path" | "paddedDim">, rows: number): number {
  // MMA: rows an odd number of 16-byte chunks apart, so that they lie in different banks.
  if (path === "MMA") return rows * (2 * paddedDim + 16);
  return rows * Math.ceil(paddedDim / BOX_COLUMNS) * 2 * BOX_COLUMNS;
}

/** Dynamic shared memory for tiles of so many rows in all. */
export const sharedBytesFor = (call: AttentionCall, rows: number): number =>
  tileBytes(call, rows) + (call.path === "HOPPER" ? TILE_ALIGNMENT : MATRIX_BYTES);

/** Of these numbers of rows that go past, the first with which `rowsOf` rows of tiles fit a block. */
export function fittingRows(
  device: CudaDevice,
  call: AttentionCall,
  candidates: readonly number[],
  rowsOf: (moving: number) => number,
): number {
  const most = device.sharedBytesPerBlock - STATIC_SHARED_BYTES;
  return candidates.find((moving) => sharedBytesFor(call, rowsOf(moving)) <= most) ?? candidates.at(-1)!;
}

/** Pointers and strides. */
export function matrices(args: Arguments, ...tensors: readonly Tensor[]): Arguments {
  for (const tensor of tensors) args.tensors(tensor).longs(tensor.stride);
  return args;
}

/** Tensor maps in boxes of so many rows. */
export function maps(
  args: Arguments,
  device: CudaDevice,
  headDim: number,
  boxRows: number,
  ...tensors: readonly Tensor[]
) {
  for (const tensor of tensors) args.structure(tensorMap(device.driver, tensor, headDim, boxRows));
  return args;
}

/** `Segments` of attention-rows.cuh. */
export const segmentsOf = (starts: Tensor, call: AttentionCall): Uint32Array =>
  words(addressOf(starts), starts.rows - 1 + starts.stride * 2 ** 32, windowOf(call));

export const windowOf = ({ window }: AttentionAttributes): number => Math.min(window ?? NO_WINDOW, NO_WINDOW);

/** A structure of 64-bit fields. */
export function words(...fields: readonly number[]): Uint32Array {
  return Uint32Array.from(fields.flatMap((field) => [field % 2 ** 32, Math.floor(field / 2 ** 32)]));
}

/** scale, and the cap where there is one. */
export const scaling = (args: Arguments, { scale, softCap }: AttentionAttributes): Arguments =>
  args.floats(scale, softCap ?? 0);

/** Heads that run together so that their keys and values [rows, headDim] stay in the L2 cache: whole groups. */
export function headsAtOnce(device: CudaDevice, { headDim, heads, share }: AttentionCall, rows: number): number {
  const bytesOfGroup = 2 * 2 * headDim * rows;
  const fitting = Math.floor((device.l2Bytes * 0.6) / bytesOfGroup) * share;
  return Math.min(heads, Math.max(1, fitting));
}
