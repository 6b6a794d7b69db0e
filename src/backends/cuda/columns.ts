// Columns of one matrix taken apart and put together: splitColumns and joinColumns.

import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { KernelTable } from "../backend.ts";
import type { CudaDevice, Step } from "./device.ts";
import { blocksOf, THREADS } from "./elementwise.ts";
import { prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { widthFor } from "./walk.ts";

/** Parameters of the kernels for parts: absent ones are null and 0 packs wide. */
const MOST_PARTS = 4;

export function columnKernels(device: CudaDevice) {
  const launch = (file: string, name: string, whole: Tensor, parts: readonly Tensor[], groups: number): Step => {
    const pieces = parts.map(({ cols }) => cols / groups);
    const width = Math.min(...pieces.map((piece) => widthFor(piece, [whole, ...parts])));
    const grid = { rows: whole.rows, packs: whole.cols / width };
    const kernel = device.function(file, name, {
      TYPE: BYTES_PER_ELEMENT[whole.dtype] === 2 ? "u16" : "u32",
      WIDTH: width,
    });
    const args = kernelArguments().tensors(whole).longs(whole.stride);
    const all = Array.from({ length: MOST_PARTS }, (_, i) => parts[i] ?? null);
    for (const part of all) args.tensors(part).longs(part?.stride ?? 0);
    args.integers(...all.map((_, i) => (pieces[i] ?? 0) / width), grid.rows, grid.packs);
    return device.launch(kernel, [blocksOf(grid)], THREADS, args);
  };
  return {
    splitColumns: prepared(device, "splitColumns", ({ x, parts, groups }) =>
      launch("split-columns.cu", "split_columns", x, parts, groups),
    ),
    joinColumns: prepared(device, "joinColumns", ({ parts, y, groups }) =>
      launch("join-columns.cu", "join_columns", y, parts, groups),
    ),
  } satisfies Partial<KernelTable>;
}
