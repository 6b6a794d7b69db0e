// Rows by index: embed reads them, kvAppend writes them.

import type { KernelTable } from "../backend.ts";
import type { CudaDevice } from "./device.ts";
import { blocksOf, THREADS } from "./elementwise.ts";
import { elementType, prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { widthFor } from "./walk.ts";

export function gatherKernels(device: CudaDevice) {
  return {
    embed: prepared(device, "embed", ({ table, tokens, y, scale }) => {
      const width = widthFor(y.cols, [table, y]);
      const grid = { rows: y.rows, packs: y.cols / width };
      const kernel = device.function("embed.cu", "embed", {
        X_TYPE: elementType(table),
        Y_TYPE: elementType(y),
        WIDTH: width,
      });
      const args = kernelArguments().tensors(table).longs(table.stride).integers(table.rows);
      args
        .tensors(tokens)
        .longs(tokens.stride)
        .tensors(y)
        .longs(y.stride)
        .integers(grid.rows, grid.packs)
        .floats(scale);
      return device.launchEarly(kernel, [blocksOf(grid)], THREADS, args);
    }),
    kvAppend: prepared(device, "kvAppend", ({ x, rows, cache }) => {
      const width = widthFor(x.cols, [x, cache]);
      const grid = { rows: x.rows, packs: x.cols / width };
      const kernel = device.function("kv-append.cu", "kv_append", {
        X_TYPE: elementType(x),
        Y_TYPE: elementType(cache),
        WIDTH: width,
      });
      const args = kernelArguments().tensors(x).longs(x.stride).tensors(rows).longs(rows.stride);
      args.tensors(cache).longs(cache.stride).integers(cache.rows, grid.rows, grid.packs);
      return device.launchEarly(kernel, [blocksOf(grid)], THREADS, args);
    }),
  } satisfies Partial<KernelTable>;
}
