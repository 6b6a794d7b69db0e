// attentionCached: tiles of queries where those of a prompt lie together; for the others the keys of a query split over blocks, and a
// launch that adds the splits in order.

import type { AttentionCachedArgs } from "../../ops/attention-cached.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import {
  type AttentionCall,
  attentionCall,
  fittingRows,
  matrices,
  pathOfShape,
  scaling,
  sharedBytesFor,
  windowOf,
  words,
} from "./attention-call.ts";
import { addressOf } from "./buffer.ts";
import type { CudaDevice, Step } from "./device.ts";
import { inOrder } from "./kernel.ts";
import { type Arguments, kernelArguments } from "./launch.ts";
import { type Room, roomBytes } from "./room.ts";

const FILE = "attention-cached.cu";
const SIMPLE_WARPS = 4;
/** Query heads of a block, and keys of a warp's stage. */
const HEADS = 16;
const KEYS = 16;
const STAGES = 2;
const COMBINE_THREADS = 128;
/** Queries of a tile, where they are of one sequence. */
const TILE = 64;
const TILE_THREADS = 128;
/** Blocks for each multiprocessor: enough bytes in flight for its share of the bandwidth. */
const BLOCKS_WANTED = 4;
/** Rows of the cache for which one more split is worth its part of the second launch. */
const FEWEST_KEYS = 256;
const MOST_SPLITS = 64;

interface Plan {
  readonly splits: number;
  /** [queries·heads·splits, headDim] and {largest, total} [.., 2] where there is more than one. */
  readonly sums: Tensor | null;
  readonly totals: Tensor | null;
}

/** Looks at shapes only: how many keys each query sees is known on the device. */
function plan(device: CudaDevice, args: AttentionCachedArgs, room: Room): Plan {
  const { q, kCache, headDim } = args;
  const none = { splits: 1, sums: null, totals: null };
  if (pathOfShape(device, args, q, ["MMA"]) === "SIMPLE" || q.rows === 0) return none;
  const [heads, share] = [q.cols / headDim, q.cols / kCache.cols];
  const blocks = q.rows * (heads / share) * Math.ceil(share / HEADS);
  const wanted = Math.ceil((BLOCKS_WANTED * device.multiprocessors) / blocks);
  const splits = Math.max(1, Math.min(wanted, Math.ceil(kCache.rows / FEWEST_KEYS), MOST_SPLITS));
  if (splits === 1) return none;
  const rows = q.rows * heads * splits;
  return { splits, sums: room.take("f32", rows, headDim), totals: room.take("f32", rows, 2) };
}

export const cachedScratchBytes = (device: CudaDevice, args: AttentionCachedArgs): number =>
  roomBytes((room) => plan(device, args, room));

export function attentionCached(device: CudaDevice, args: AttentionCachedArgs, room: Room): Step {
  const { q, kCache, vCache, o } = args;
  if (q.rows === 0) return () => {};
  const call = attentionCall(device, "attentionCached", args, [q, kCache, vCache, o], ["MMA"]);
  if (call.path === "SIMPLE") {
    const kernel = device.function(FILE, "attention_cached", call.defines);
    const block = inputs(call, args);
    const grid = [q.rows, Math.ceil(call.heads / SIMPLE_WARPS)] as const;
    return device.launch(kernel, grid, SIMPLE_WARPS * 32, scaling(block.integers(call.heads, call.share), call));
  }
  return inOrder(...tiles(device, call, args), ...splits(device, call, args, plan(device, args, room)));
}

/** The first arguments of every path. */
function inputs(call: AttentionCall, args: AttentionCachedArgs): Arguments {
  const { q, kCache, vCache, o } = args;
  return matrices(matrices(kernelArguments(), q, kCache, vCache).structure(sequencesOf(args, call)), o);
}

/** Prompts: tiles of queries of one sequence, where there are queries for one. */
function tiles(device: CudaDevice, call: AttentionCall, args: AttentionCachedArgs): Step[] {
  const { q } = args;
  if (q.rows < TILE) return [];
  const sharedBytes = sharedBytesFor(call, TILE + 2 * tileKeys(device, call));
  const kernel = device.function(FILE, "attention_cached_tiles", definesOf(device, call, args), sharedBytes);
  const block = inputs(call, args).integers(q.rows, call.heads, call.share);
  return [device.launch(kernel, [Math.ceil(q.rows / TILE) * call.heads], TILE_THREADS, scaling(block, call))];
}

const tileKeys = (device: CudaDevice, call: AttentionCall): number =>
  fittingRows(device, call, [64, 32], (moving) => TILE + 2 * moving);

/** All other queries: their keys split over blocks. */
function splits(device: CudaDevice, call: AttentionCall, args: AttentionCachedArgs, planned: Plan): Step[] {
  const { q, o } = args;
  const defines = definesOf(device, call, args);
  const partial = splitsOf(planned);
  const block = inputs(call, args).structure(partial).integers(q.rows, call.heads, call.share);
  const kernel = device.function(FILE, "attention_cached", defines, sharedBytesOf(call, defines.WARPS));
  const grid = [q.rows * planned.splits, call.groups * Math.ceil(call.share / HEADS)] as const;
  const attend = device.launchEarly(kernel, grid, defines.WARPS * 32, scaling(block, call));
  if (planned.splits === 1) return [attend];
  const combine = device.function(FILE, "attention_cached_combine", defines);
  const sequences = kernelArguments().structure(sequencesOf(args, call)).structure(partial);
  const rest = matrices(sequences, o).integers(q.rows, call.heads);
  return [attend, device.launchEarly(combine, [q.rows, call.heads], COMBINE_THREADS, rest)];
}

/** Macros of one compilation of the file, for all its functions. */
const definesOf = (device: CudaDevice, call: AttentionCall, { q }: AttentionCachedArgs) => ({
  ...call.defines,
  // Two warps where four would need more shared memory than blocks of older GPUs have.
  WARPS: call.paddedDim > 128 ? 2 : 4,
  TILE_KEYS: tileKeys(device, call),
  TILED: q.rows < TILE ? 0 : 1,
});

/** `Sequences` of the kernels' file. */
const sequencesOf = ({ slots, lengths }: AttentionCachedArgs, call: AttentionCall): Uint32Array =>
  words(addressOf(slots), addressOf(lengths), slots.stride, lengths.stride, windowOf(call));

/** `Splits` of the kernels' file. */
const splitsOf = ({ splits, sums, totals }: Plan): Uint32Array =>
  words(sums ? addressOf(sums) : 0, totals ? addressOf(totals) : 0, splits);

/** The tile of queries and every warp's stages of keys and values; at the end, in their place, every warp's sums as f32. */
function sharedBytesOf(call: AttentionCall, warps: number): number {
  const tiles = sharedBytesFor(call, HEADS + warps * STAGES * 2 * KEYS);
  return Math.max(tiles, warps * HEADS * call.paddedDim * 4);
}
