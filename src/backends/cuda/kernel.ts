// What the kernel table is built from.

import { QdlError } from "../../errors.ts";
import type { ArgsOf, OpName } from "../../ops/index.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Kernel } from "../backend.ts";
import type { CudaDevice, Step } from "./device.ts";

/** A kernel whose calls are prepared once and enqueued any number of times. */
export function prepared<K extends OpName>(
  device: CudaDevice,
  name: K,
  prepare: (args: ArgsOf<K>, scratch: Tensor | null) => Step,
  scratchBytes?: (args: ArgsOf<K>) => number,
): Kernel<K> {
  const ready = (args: ArgsOf<K>, scratch: Tensor | null): Step => {
    device.begin(name);
    const step = prepare(args, scratch);
    return () => {
      device.begin(name);
      step();
    };
  };
  return { run: (args, scratch) => ready(args, scratch)(), prepare: ready, ...(scratchBytes && { scratchBytes }) };
}

/** The steps one after another. */
export const inOrder =
  (...steps: readonly Step[]): Step =>
  () => {
    for (const step of steps) step();
  };

/** The type of the prelude for a tensor's elements. Throws OP_UNSUPPORTED for those that no kernel takes. */
export function elementType({ dtype }: Tensor): "float" | "bf16" {
  if (dtype === "f32") return "float";
  if (dtype === "bf16") return "bf16";
  throw new QdlError(
    "OP_UNSUPPORTED",
    `cuda: a tensor is ${dtype}, expected f32 or bf16${dtype === "f64" ? ": f64 exists on the reference backend only" : ""}`,
  );
}

/** The one type of several tensors. Throws OP_UNSUPPORTED where they differ. */
export function commonType(op: OpName, ...tensors: readonly Tensor[]): "float" | "bf16" {
  const types = tensors.map(elementType);
  if (types.some((type) => type !== types[0]))
    throw new QdlError("OP_UNSUPPORTED", `cuda: ${op} on a mix of f32 and bf16, expected one compute dtype`);
  return types[0]!;
}
