// Rotary embedding: the table of a micro-batch, and the rotation.

import type { KernelTable } from "../backend.ts";
import type { CudaDevice } from "./device.ts";
import { blocksOf, THREADS } from "./elementwise.ts";
import { commonType, prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { widthFor } from "./walk.ts";

export function ropeKernels(device: CudaDevice) {
  return {
    ropeTable: prepared(device, "ropeTable", ({ positions, frequencies, cosSin, magnitude }) => {
      commonType("ropeTable", frequencies, cosSin);
      const grid = { rows: cosSin.rows, packs: frequencies.cols };
      const kernel = device.function("rope-table.cu", "rope_table");
      const args = kernelArguments().tensors(positions).longs(positions.stride).tensors(frequencies, cosSin);
      args.longs(cosSin.stride).integers(grid.rows, grid.packs).floats(magnitude);
      return device.launchEarly(kernel, [blocksOf(grid)], THREADS, args);
    }),
    rope: prepared(device, "rope", ({ x, cosSin, y, headDim, direction }) => {
      const half = cosSin.cols / 2;
      const rest = headDim - cosSin.cols;
      // A pack must not cross the middle or the end of what is rotated. The angles are f32, which take two reads beside a
      // pack of bf16.
      const width = widthFor(half, [cosSin]) === 1 ? 1 : Math.min(widthFor(half, [x, y]), widthFor(rest, [x, y]));
      const heads = x.cols / headDim;
      const packs = half / width;
      const restPacks = rest / width;
      const kernel = device.function("rope.cu", "rope", { TYPE: commonType("rope", x, y), WIDTH: width });
      const args = kernelArguments().tensors(x).longs(x.stride).tensors(cosSin).longs(cosSin.stride);
      args
        .tensors(y)
        .longs(y.stride)
        .integers(x.rows, heads, packs, restPacks)
        .floats(direction === "forward" ? 1 : -1);
      return device.launchEarly(
        kernel,
        [blocksOf({ rows: x.rows, packs: heads * (packs + restPacks) })],
        THREADS,
        args,
      );
    }),
  } satisfies Partial<KernelTable>;
}
