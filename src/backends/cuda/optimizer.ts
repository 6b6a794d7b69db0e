// The norm of the gradient and the updates, each over all tensors of an adapter in one launch.

import { momentBlocks } from "../../ops/adam-w-8bit.ts";
import type { AdamWSettings } from "../../ops/adam-w-rule.ts";
import { rowSlice, type Tensor } from "../../tensor/tensor.ts";
import type { KernelTable } from "../backend.ts";
import { addressOf } from "./buffer.ts";
import type { CudaDevice } from "./device.ts";
import { THREADS } from "./elementwise.ts";
import { commonType, prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { Table } from "./tables.ts";
import { type Walk, walkElements, widthFor } from "./walk.ts";

/** Packs that one block of sumSquares takes. */
const PACKS_PER_BLOCK = 16 * THREADS;
const PART_BYTES = 8;
/** Scratch may start anywhere; f64 parts must not. */
const PART_ALIGNMENT = 8;
/** Warps of a block of adamW8bit, each with a block of moments. */
const WARPS = 8;

export function optimizerKernels(device: CudaDevice) {
  return {
    sumSquares: prepared(
      device,
      "sumSquares",
      ({ xs, sum }, scratch) => {
        commonType("sumSquares", ...xs, sum);
        const walks = sameWidth(xs.map((x) => walkElements(x)));
        const table = new Table();
        let blocks = 0;
        for (const [i, walk] of walks.entries()) {
          table.longs(blocks).tensors(xs[i]!).longs(walk.strides[0]!).integers(walk.rows, walk.packs);
          blocks += partsOf(walk);
        }
        const kernel = (name: string) => device.function("sum-squares.cu", name, { WIDTH: walks[0]?.width ?? 1 });
        const [parts, total] = [kernel("sum_squares_parts"), kernel("sum_squares_total")];
        const at = Math.ceil(addressOf(scratch!) / PART_ALIGNMENT) * PART_ALIGNMENT;
        return () => {
          const args = kernelArguments().address(device.tables.put(table)).integers(xs.length, PACKS_PER_BLOCK);
          device.launch(parts, [blocks], THREADS, args.address(at))();
          device.launch(total, [1], THREADS, kernelArguments().address(at).integers(blocks).tensors(sum))();
        };
      },
      ({ xs }) =>
        xs.reduce((bytes, x) => bytes + PART_BYTES * partsOf({ rows: 1, packs: x.rows * x.cols }), PART_ALIGNMENT),
    ),
    adamW: prepared(device, "adamW", (args) => {
      const { params, gradients, ms, vs, copies, steps, squares, from, to } = args;
      const window = (tensor: Tensor) => rowSlice(tensor, from, to);
      const lists = params.map((param, i) => [param, gradients[i]!, ms[i]!, vs[i]!].map(window));
      commonType("adamW", ...lists.flat(), squares);
      const width = Math.min(
        ...lists.map((list, i) => widthFor(list[0]!.cols, copies[i] ? [...list, window(copies[i])] : list)),
      );
      const table = new Table();
      let blocks = 0;
      for (const [i, list] of lists.entries()) {
        const all = [...list, copies[i] ? window(copies[i]) : null];
        const packs = list[0]!.cols / width;
        const blocksPerRow = Math.ceil(packs / THREADS);
        table
          .longs(blocks)
          .tensors(...all)
          .longs(...all.map((tensor) => tensor?.stride ?? 0));
        table.doubles(args.learningRates[i]!).integers(packs, blocksPerRow);
        blocks += (to - from) * blocksPerRow;
      }
      if (blocks === 0) return () => {};
      const kernel = device.function("adam-w.cu", "adam_w", { WIDTH: width });
      return () => {
        const call = kernelArguments().address(device.tables.put(table));
        call.tensors(window(steps)).longs(steps.stride).tensors(squares).structure(settingsOf(args, params.length));
        device.launch(kernel, [blocks], THREADS, call)();
      };
    }),
    adamW8bit: prepared(device, "adamW8bit", (args) => {
      const { params, copies, steps, squares, from, to } = args;
      const window = (tensor: Tensor) => rowSlice(tensor, from, to);
      const { gradients, mCodes, mAbsmax, vCodes, vAbsmax } = args;
      const table = new Table();
      let blocks = 0;
      let width = 4;
      for (const [i, param] of params.entries()) {
        const all = [param, gradients[i]!, mCodes[i]!, mAbsmax[i]!, vCodes[i]!, vAbsmax[i]!, copies[i] ?? null];
        table.longs(blocks).tensors(...all.map((tensor) => tensor && window(tensor)));
        table.longs(...all.map((tensor) => tensor?.stride ?? 0)).doubles(args.learningRates[i]!);
        table.integers(param.cols, momentBlocks(param.cols));
        const packed = [param, gradients[i]!, mCodes[i]!, vCodes[i]!, ...(copies[i] ? [copies[i]] : [])].map(window);
        width = Math.min(width, widthFor(param.cols, packed));
        blocks += (to - from) * momentBlocks(param.cols);
      }
      const kernel = device.function("adam-w-8bit.cu", "adam_w_8bit", { WIDTH: width });
      return () => {
        if (blocks === 0) return;
        const call = kernelArguments().address(device.tables.put(table)).tensors(args.mMap, args.vMap, window(steps));
        call.longs(steps.stride).tensors(squares).structure(settingsOf(args, params.length)).longs(blocks);
        device.launch(kernel, [Math.ceil(blocks / WARPS)], [32, WARPS], call)();
      };
    }),
  } satisfies Partial<KernelTable>;
}

/** AdamWSettings of kernels/adam-w.cuh. */
function settingsOf({ beta1, beta2, maxNorm, weightDecay, epsilon }: AdamWSettings, tensors: number): Uint32Array {
  return new Table().doubles(beta1, beta2, maxNorm, weightDecay).float(epsilon).integers(tensors).words;
}

/** One kernel walks all tensors: in packs only where each of them can be. */
function sameWidth(walks: readonly Walk[]): readonly Walk[] {
  if (new Set(walks.map(({ width }) => width)).size <= 1) return walks;
  return walks.map((walk) => ({ ...walk, width: 1, packs: walk.packs * walk.width }));
}

const partsOf = ({ rows, packs }: Pick<Walk, "rows" | "packs">): number => Math.ceil((rows * packs) / PACKS_PER_BLOCK);
