// The kernel table: every op of the contract, from the files that write its launches.

import type { KernelTable } from "../backend.ts";
import { attentionKernels } from "./attention.ts";
import { columnKernels } from "./columns.ts";
import { copyKernels } from "./copies.ts";
import type { CudaDevice } from "./device.ts";
import { elementwiseKernels } from "./elementwise.ts";
import { gatherKernels } from "./gather.ts";
import { linearKernels } from "./linears.ts";
import { lossKernels } from "./loss.ts";
import { normKernels } from "./norms.ts";
import { optimizerKernels } from "./optimizer.ts";
import { quantizationKernels } from "./quantization.ts";
import { ropeKernels } from "./rope.ts";

export function kernelTable(device: CudaDevice): KernelTable {
  return {
    ...elementwiseKernels(device),
    ...normKernels(device),
    ...ropeKernels(device),
    ...gatherKernels(device),
    ...linearKernels(device),
    ...lossKernels(device),
    ...quantizationKernels(device),
    ...optimizerKernels(device),
    ...attentionKernels(device),
    ...columnKernels(device),
    ...copyKernels(device),
  };
}
