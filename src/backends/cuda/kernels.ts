// The kernel table: every op of the contract, from the files that write its launches.

import type { KernelTable } from "../backend.ts";
import { unsupported } from "../base.ts";
import type { CudaDevice } from "./device.ts";
import { elementwiseKernels } from "./elementwise.ts";
import { gatherKernels } from "./gather.ts";
import { normKernels } from "./norms.ts";
import { optimizerKernels } from "./optimizer.ts";
import { ropeKernels } from "./rope.ts";

export function kernelTable(device: CudaDevice): KernelTable {
  return {
    ...elementwiseKernels(device),
    ...normKernels(device),
    ...ropeKernels(device),
    ...gatherKernels(device),
    ...optimizerKernels(device),
    attention: unsupported("not written yet"),
    attentionBackward: unsupported("not written yet"),
    attentionCached: unsupported("not written yet"),
    matmul: unsupported("not written yet"),
    adaptedLinears: unsupported("not written yet"),
    adaptedLinearsBackward: unsupported("not written yet"),
    linearCrossEntropy: unsupported("not written yet"),
    quantize4bit: unsupported("not written yet"),
    quantizeScales: unsupported("not written yet"),
    dequantize: unsupported("not written yet"),
  };
}
