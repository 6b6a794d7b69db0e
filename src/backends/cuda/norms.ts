// rmsNorm, layerNorm and their backwards: a block per row, or a warp or a part of one per group of
// columns where rows or groups are short.

import type { OpName } from "../../ops/index.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { KernelTable } from "../backend.ts";
import type { CudaDevice, Grid, Threads } from "./device.ts";
import { commonType, prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import type { Defines } from "./modules.ts";
import { widthFor } from "./walk.ts";

const WARP = 32;
const THREADS = 256;
const MOST_THREADS = 1024;
/** Threads that a multiprocessor shall hold at once. */
const RESIDENT_THREADS = 1536;
/** Packs that one thread of a warp keeps at most before a whole block takes the group. */
const KEPT_BY_A_LANE = 4;
/** Packs that one thread of a block keeps, as long as the block can grow. */
const KEPT_IN_A_BLOCK = 2;

interface Plan {
  readonly defines: Defines;
  readonly groups: number;
  readonly grid: Grid;
  readonly threads: Threads;
}

/** How groups of `cols` columns of the moving tensors are shared out, beside weights that may be f32. */
function planGroups(op: OpName, cols: number, moving: readonly Tensor[], weights: readonly Tensor[]): Plan {
  const aligned = widthFor(cols, weights) > 1;
  const width = aligned ? widthFor(cols, moving) : 1;
  const packs = cols / width;
  const groups = moving[0]!.rows * (moving[0]!.cols / cols);
  const [threads, together] = threadsFor(packs);
  return {
    defines: {
      TYPE: commonType(op, ...moving),
      WEIGHT_TYPE: commonType(op, ...weights),
      ...{ WIDTH: width, KEPT: Math.ceil(packs / threads) },
      ...{ THREADS: threads * together, RESIDENT: RESIDENT_THREADS },
    },
    groups,
    grid: [Math.ceil(groups / together)],
    threads: [threads, together],
  };
}

/** Threads of a group, and groups of a block: parts of a warp, a warp, or the block alone. */
function threadsFor(packs: number): [number, number] {
  const lanes = Math.min(WARP, 2 ** Math.ceil(Math.log2(Math.max(1, packs))));
  if (packs <= WARP * KEPT_BY_A_LANE) return [lanes, THREADS / lanes];
  return [Math.min(MOST_THREADS, WARP * Math.ceil(packs / (WARP * KEPT_IN_A_BLOCK))), 1];
}

export function normKernels(device: CudaDevice) {
  return {
    rmsNorm: prepared(device, "rmsNorm", ({ x, weight, y, rstd, eps }) => {
      const { defines, groups, grid, threads } = planGroups("rmsNorm", weight.cols, [x, y], [weight]);
      const args = kernelArguments().tensors(x).longs(x.stride).tensors(weight, y).longs(y.stride);
      args.tensors(rstd).longs(rstd.stride).integers(groups, rstd.cols, weight.cols).floats(eps);
      return device.launchEarly(device.function("rms-norm.cu", "rms_norm", defines), grid, threads, args);
    }),
    rmsNormBackward: prepared(device, "rmsNormBackward", ({ x, weight, rstd, dy, dx }) => {
      const { defines, groups, grid, threads } = planGroups("rmsNormBackward", weight.cols, [x, dy, dx], [weight]);
      const args = kernelArguments().tensors(x).longs(x.stride).tensors(weight, rstd).longs(rstd.stride);
      args.tensors(dy).longs(dy.stride).tensors(dx).longs(dx.stride).integers(groups, rstd.cols, weight.cols);
      return device.launchEarly(
        device.function("rms-norm-backward.cu", "rms_norm_backward", defines),
        grid,
        threads,
        args,
      );
    }),
    layerNorm: prepared(device, "layerNorm", ({ x, weight, bias, y, mean, rstd, eps }) => {
      const weights = bias ? [weight, bias] : [weight];
      const { defines, groups, grid, threads } = planGroups("layerNorm", x.cols, [x, y], weights);
      const args = kernelArguments().tensors(x).longs(x.stride).tensors(weight, bias, y).longs(y.stride);
      args.tensors(mean).longs(mean.stride).tensors(rstd).longs(rstd.stride).integers(groups, x.cols).floats(eps);
      return device.launchEarly(device.function("layer-norm.cu", "layer_norm", defines), grid, threads, args);
    }),
    layerNormBackward: prepared(device, "layerNormBackward", ({ x, weight, mean, rstd, dy, dx }) => {
      const { defines, groups, grid, threads } = planGroups("layerNormBackward", x.cols, [x, dy, dx], [weight]);
      const args = kernelArguments().tensors(x).longs(x.stride).tensors(weight, mean).longs(mean.stride);
      args.tensors(rstd).longs(rstd.stride).tensors(dy).longs(dy.stride).tensors(dx).longs(dx.stride);
      args.integers(groups, x.cols);
      const kernel = device.function("layer-norm-backward.cu", "layer_norm_backward", defines);
      return device.launchEarly(kernel, grid, threads, args);
    }),
  } satisfies Partial<KernelTable>;
}
