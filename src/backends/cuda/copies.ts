// startCopies and awaitCopies.

import type { KernelTable } from "../backend.ts";
import type { CudaDevice } from "./device.ts";
import { inOrder, prepared } from "./kernel.ts";

export function copyKernels(device: CudaDevice) {
  return {
    startCopies: prepared(device, "startCopies", ({ xs, ys, group }) => {
      const copies = ys.map((y, i) => device.copies.prepare(xs[i]!, y));
      const all = inOrder(...copies);
      return () => device.copies.begin(group, all);
    }),
    awaitCopies: prepared(
      device,
      "awaitCopies",
      ({ group }) =>
        () =>
          device.copies.await(group),
    ),
  } satisfies Partial<KernelTable>;
}
