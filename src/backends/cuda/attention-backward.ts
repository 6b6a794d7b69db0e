// attentionBackward: δ and the log-sum-exps by heads, then the gradients of keys and values, then those of queries.

import type { AttentionBackwardArgs } from "../../ops/attention-backward.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import {
  type AttentionCall,
  attentionCall,
  fittingRows,
  headsAtOnce,
  maps,
  matrices,
  paddedDimOf,
  pathOfShape,
  scaling,
  segmentsOf,
  sharedBytesFor,
  words,
} from "./attention-call.ts";
import { addressOf } from "./buffer.ts";
import type { CudaDevice, Step } from "./device.ts";
import { inOrder } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import type { Defines } from "./modules.ts";
import { type Room, roomBytes } from "./room.ts";

const FILE = "attention-backward.cu";
const WARPS = 4;
const HOPPER_THREADS = 384;
/** Rows of a block that stay while others go past. */
const STILL = { MMA: 64, HOPPER: 128 };
const DELTA_ROWS = 64;
const THREADS = 256;
/** Statistics are read in whole blocks of rows. */
const ROWS_UNIT = 128;
/** Columns of dK and dV that a block has registers for. */
const MOST_COLUMNS = 128;
/** Blocks of key gradients for each multiprocessor, below which the heads of a group are split: long ones need short ones beside them. */
const BLOCKS_WANTED = 2;

interface Plan {
  /** [heads, rows padded] each. */
  readonly lse: Tensor;
  readonly delta: Tensor;
  readonly headsOfPart: number;
  readonly parts: number;
  /** [parts·2·rows, groups·headDim] where there are parts. */
  readonly sums: Tensor | null;
}

/** Looks at shapes only, so that it is known before memory is. */
function plan(device: CudaDevice, args: AttentionBackwardArgs, room: Room): Plan {
  const { q, k, headDim } = args;
  const [heads, share] = [q.cols / headDim, q.cols / k.cols];
  const rowsPadded = Math.ceil(q.rows / ROWS_UNIT) * ROWS_UNIT;
  const [lse, delta] = [room.take("f32", heads, rowsPadded), room.take("f32", heads, rowsPadded)];
  const path = pathOfShape(device, args, q);
  if (path === "SIMPLE") return { lse, delta, headsOfPart: share, parts: 1, sums: null };
  const slices = slicesOf(paddedDimOf(path, headDim));
  const blocks = Math.ceil(q.rows / STILL[path]) * (heads / share) * slices;
  const wanted = Math.ceil((BLOCKS_WANTED * device.multiprocessors) / Math.max(1, blocks));
  const headsOfPart = Math.ceil(share / Math.min(share, wanted));
  const parts = Math.ceil(share / headsOfPart);
  const sums = parts > 1 ? room.take("f32", parts * 2 * q.rows, k.cols) : null;
  return { lse, delta, headsOfPart, parts, sums };
}

const slicesOf = (paddedDim: number): number => (paddedDim > MOST_COLUMNS ? 2 : 1);

export const backwardScratchBytes = (device: CudaDevice, args: AttentionBackwardArgs): number =>
  roomBytes((room) => plan(device, args, room));

export function attentionBackward(device: CudaDevice, args: AttentionBackwardArgs, room: Room): Step {
  const { q, k, v, o, dO, dq, dk, dv } = args;
  if (q.rows === 0) return () => {};
  const call = attentionCall(device, "attentionBackward", args, [q, k, v, o, dO, dq, dk, dv]);
  const planned = plan(device, args, room);
  if (call.path === "SIMPLE") return simple(device, call, args, planned);
  const launches = call.path === "HOPPER" ? hopper : mma;
  return inOrder(
    delta(device, call, args, planned),
    ...launches(device, call, args, planned),
    ...(planned.sums ? [sumParts(device, call, args, planned)] : []),
  );
}

/** `Statistics` of the kernels' file. */
const statisticsOf = ({ lse, delta }: Plan): Uint32Array => words(addressOf(lse), addressOf(delta), lse.cols);

function deltaArguments(call: AttentionCall, { o, dO, lse, starts, q }: AttentionBackwardArgs, planned: Plan) {
  const block = matrices(kernelArguments(), o, dO, lse).structure(segmentsOf(starts, call));
  return block.structure(statisticsOf(planned)).integers(q.rows);
}

function simple(device: CudaDevice, call: AttentionCall, args: AttentionBackwardArgs, planned: Plan): Step {
  const { q, dq, dk, dv } = args;
  const launch = (name: string, heads: number, block: ReturnType<typeof kernelArguments>) =>
    device.launch(device.function(FILE, name, call.defines), [Math.ceil(q.rows / WARPS), heads], WARPS * 32, block);
  const gradient = (...targets: readonly Tensor[]) =>
    scaling(matrices(inputs(call, args, planned), ...targets).integers(q.rows, call.heads, call.share), call);
  return inOrder(
    launch("attention_delta", call.heads, deltaArguments(call, args, planned)),
    launch("attention_key_gradient", call.groups, gradient(dk, dv)),
    launch("attention_query_gradient", call.heads, gradient(dq)),
  );
}

/** The first arguments of both gradients, but on Hopper. */
function inputs(call: AttentionCall, { q, k, v, starts, dO }: AttentionBackwardArgs, planned: Plan) {
  const block = matrices(kernelArguments(), q, k, v).structure(segmentsOf(starts, call));
  return matrices(block, dO).structure(statisticsOf(planned));
}

function delta(device: CudaDevice, call: AttentionCall, args: AttentionBackwardArgs, planned: Plan): Step {
  const kernel = device.function(FILE, "attention_delta", definesOf(device, call));
  const grid = [planned.lse.cols / DELTA_ROWS, call.heads] as const;
  return device.launch(kernel, grid, THREADS, deltaArguments(call, args, planned));
}

function sumParts(device: CudaDevice, call: AttentionCall, { k, dk, dv }: AttentionBackwardArgs, planned: Plan): Step {
  const kernel = device.function(FILE, "attention_sum_parts", definesOf(device, call));
  const block = matrices(kernelArguments().tensors(planned.sums).integers(planned.parts), dk, dv);
  return device.launch(
    kernel,
    [Math.ceil((k.rows * k.cols) / 2 / THREADS), 2],
    THREADS,
    block.integers(k.rows, k.cols),
  );
}

/** Macros of one compilation of the file, for all its functions. */
const definesOf = (device: CudaDevice, call: AttentionCall): Defines => ({
  ...call.defines,
  ...(call.path === "HOPPER" ? hopperTiles(call) : { MOVING: mmaMoving(device, call) }),
});

const mmaMoving = (device: CudaDevice, call: AttentionCall): number =>
  fittingRows(device, call, call.paddedDim > MOST_COLUMNS ? [32, 16] : [64, 32], mmaRows);

/** Two operands stay, two go past. */
const mmaRows = (moving: number): number => 2 * (STILL.MMA + moving);

function mma(device: CudaDevice, call: AttentionCall, args: AttentionBackwardArgs, planned: Plan): Step[] {
  const { q, dq, dk, dv } = args;
  const defines = definesOf(device, call);
  const sharedBytes = sharedBytesFor(call, mmaRows(mmaMoving(device, call)));
  const tiles = Math.ceil(q.rows / STILL.MMA);
  const shape = [q.rows, call.heads, call.share];
  const ofKeys = matrices(inputs(call, args, planned), dk, dv).tensors(planned.sums);
  const ofQueries = matrices(inputs(call, args, planned), dq).integers(...shape);
  return [
    device.launch(
      device.function(FILE, "attention_key_gradient", defines, sharedBytes),
      [tiles * call.groups, slicesOf(call.paddedDim), planned.parts],
      WARPS * 32,
      scaling(ofKeys.integers(planned.headsOfPart, ...shape), call),
    ),
    device.launch(
      device.function(FILE, "attention_query_gradient", defines, sharedBytes),
      [tiles * call.heads],
      WARPS * 32,
      scaling(ofQueries, call),
    ),
  ];
}

/** Rows that go past at once, and stages of shared memory for them. Measured on H100: bench/results. */
function hopperTiles({ paddedDim }: AttentionCall) {
  if (paddedDim > 128)
    return { MOVING_QUERIES: 64, QUERY_STAGES: 2, GRADIENT_STAGES: 1, MOVING_KEYS: 64, KEY_STAGES: 2, VALUE_STAGES: 1 };
  const keys = { 64: 96, 80: 128, 96: 96, 128: 128 }[paddedDim]!;
  return { MOVING_QUERIES: 64, QUERY_STAGES: 3, GRADIENT_STAGES: 3, MOVING_KEYS: keys, KEY_STAGES: 2, VALUE_STAGES: 2 };
}

function hopper(device: CudaDevice, call: AttentionCall, args: AttentionBackwardArgs, planned: Plan): Step[] {
  const { q, k, v, starts, dO, dq, dk, dv } = args;
  const { headDim, heads, share } = call;
  const shape = hopperTiles(call);
  const defines = definesOf(device, call);
  const tiles = Math.ceil(q.rows / STILL.HOPPER);
  /** Boxes of 64 rows, but of the keys that go past. */
  const block = (keyRows: number, ...targets: readonly Tensor[]) => {
    const first = maps(maps(kernelArguments(), device, headDim, 64, q), device, headDim, keyRows, k, v);
    maps(first.structure(segmentsOf(starts, call)), device, headDim, 64, dO).structure(statisticsOf(planned));
    return maps(first, device, headDim, 64, ...targets);
  };
  const launch = (
    name: string,
    grid: readonly [number, number?, number?],
    rows: number,
    args: ReturnType<typeof block>,
  ) => {
    const kernel = device.function(FILE, name, defines, sharedBytesFor(call, 2 * STILL.HOPPER + rows));
    return device.launch(kernel, grid, HOPPER_THREADS, scaling(args, call));
  };
  return [
    launch(
      "attention_key_gradient",
      [tiles * call.groups, slicesOf(call.paddedDim), planned.parts],
      (shape.QUERY_STAGES + shape.GRADIENT_STAGES) * shape.MOVING_QUERIES,
      block(64, dk, dv).tensors(planned.sums).integers(planned.headsOfPart, q.rows, heads, share),
    ),
    launch(
      "attention_query_gradient",
      [tiles * heads],
      (shape.KEY_STAGES + shape.VALUE_STAGES) * shape.MOVING_KEYS,
      block(shape.MOVING_KEYS, dq).integers(q.rows, heads, share, headsAtOnce(device, call, q.rows)),
    ),
  ];
}
