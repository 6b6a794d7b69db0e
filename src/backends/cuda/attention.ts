// attention: one launch. attentionBackward and attentionCached stand in files beside this one.

import type { AttentionArgs } from "../../ops/attention.ts";
import type { KernelTable } from "../backend.ts";
import { attentionBackward, backwardScratchBytes } from "./attention-backward.ts";
import { attentionCached, cachedScratchBytes } from "./attention-cached.ts";
import {
  type AttentionCall,
  attentionCall,
  fittingRows,
  headsAtOnce,
  maps,
  matrices,
  scaling,
  segmentsOf,
  sharedBytesFor,
} from "./attention-call.ts";
import type { CudaDevice, Step } from "./device.ts";
import { prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { Room } from "./room.ts";

const FILE = "attention.cu";
const WARPS = 4;
/** Rows that one warp, or one warpgroup, multiplies. */
const WARP_ROWS = 16;
const GROUP_ROWS = 64;

export function attentionKernels(device: CudaDevice) {
  return {
    attention: prepared(device, "attention", (args) => attention(device, args)),
    attentionBackward: prepared(
      device,
      "attentionBackward",
      (args, scratch) => attentionBackward(device, args, new Room(scratch)),
      (args) => backwardScratchBytes(device, args),
    ),
    attentionCached: prepared(
      device,
      "attentionCached",
      (args, scratch) => attentionCached(device, args, new Room(scratch)),
      (args) => cachedScratchBytes(device, args),
    ),
  } satisfies Partial<KernelTable>;
}

function attention(device: CudaDevice, args: AttentionArgs): Step {
  const { q, k, v, o } = args;
  if (q.rows === 0) return () => {};
  const call = attentionCall(device, "attention", args, [q, k, v, o]);
  if (call.path === "HOPPER") return hopper(device, call, args);
  const { heads, share } = call;
  const block = matrices(kernelArguments(), q, k, v).structure(segmentsOf(args.starts, call));
  scaling(matrices(block, o, args.lse).integers(q.rows, heads, share), call);
  if (call.path === "SIMPLE") {
    const kernel = device.function(FILE, "attention", call.defines);
    return device.launch(kernel, [Math.ceil(q.rows / WARPS), heads], WARPS * 32, block);
  }
  const queries = WARPS * WARP_ROWS;
  const keys = fittingRows(device, call, [64, 32], (moving) => queries + 2 * moving);
  const sharedBytes = sharedBytesFor(call, queries + 2 * keys);
  const kernel = device.function(FILE, "attention", { ...call.defines, KEYS: keys }, sharedBytes);
  return device.launch(kernel, [Math.ceil(q.rows / queries) * heads], WARPS * 32, block);
}

function hopper(device: CudaDevice, call: AttentionCall, { q, k, v, starts, o, lse }: AttentionArgs): Step {
  const { headDim, paddedDim, heads, share } = call;
  // Registers for a third warpgroup are there up to head dim 64; beyond 128 there is shared memory for 64 keys.
  const tiles = { GROUPS: paddedDim <= 64 ? 3 : 2, KEYS: paddedDim > 128 ? 64 : 128, STAGES: 2 };
  const queries = GROUP_ROWS * tiles.GROUPS;
  const block = maps(kernelArguments(), device, headDim, GROUP_ROWS, q);
  maps(block, device, headDim, tiles.KEYS, k, v).structure(segmentsOf(starts, call));
  matrices(maps(block, device, headDim, GROUP_ROWS, o), lse);
  scaling(block.integers(q.rows, heads, share, headsAtOnce(device, call, q.rows)), call);
  const sharedBytes = sharedBytesFor(call, queries + 2 * tiles.STAGES * tiles.KEYS);
  const kernel = device.function(FILE, "attention", { ...call.defines, ...tiles }, sharedBytes);
  return device.launch(kernel, [Math.ceil(q.rows / queries) * heads], 128 * (tiles.GROUPS + 1), block);
}
