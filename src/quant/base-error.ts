// How far the linears of a loaded base are from the checkpoint that they were made from: measured, not estimated, by
// dequantising what lies on the device and reading the checkpoint again, both chunk by chunk.

import type { Backend } from "../backends/backend.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { type FloatDType, toF32 } from "../formats/float-convert.ts";
import type { StoredTensor } from "../formats/safetensors.ts";
import { DTYPE_BITS } from "../formats/safetensors-header.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import type { FrozenWeight } from "../ops/frozen-weight.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";
import { findBaseTensors } from "./base-tensors.ts";
import { ChunkReader } from "./chunks.ts";
import { ErrorSums } from "./error-sums.ts";
import { Staging } from "./staging.ts";

export interface BaseError {
  /** ‖held − stored‖ / ‖stored‖ over all linears. */
  readonly relative: number;
  /** The same over all layers' linears of one name, in the order of the block. */
  readonly linears: readonly { readonly name: string; readonly relative: number }[];
}

/** Most memory: the largest linear in f32 on the device. Throws MEMORY_EXCEEDED, and what reading the checkpoint throws. */
export async function measureBaseError(
  backend: Backend,
  model: FrozenModel,
  checkpoint: Checkpoint,
): Promise<BaseError> {
  const stored = await findBaseTensors(checkpoint, model.config);
  const whole = new ErrorSums();
  const byName = new Map<string, ErrorSums>();
  const staging = new Staging(backend, "dequantised linear");
  const reader = new ChunkReader();
  try {
    for (const [layer, { linears }] of stored.layers.entries())
      for (const [name, { weight }] of Object.entries(linears)) {
        // What is 4-bit already is held to the bit.
        if (weight.kind !== "dense") continue;
        const sums = byName.get(name) ?? new ErrorSums();
        byName.set(name, sums);
        const held = model.layers[layer]!.linears[name]!.weight;
        const values = await dequantised(backend, held, staging);
        await addChunks(backend, values, weight.tensor, reader, [whole, sums]);
      }
  } finally {
    staging.dispose();
  }
  return { relative: whole.relative, linears: [...byName].map(([name, { relative }]) => ({ name, relative })) };
}

/** The weight's values, f32 [M, K], in memory of `staging`. */
async function dequantised(backend: Backend, weight: FrozenWeight, staging: Staging): Promise<DeviceBuffer> {
  const { rows, cols } = weight;
  const buffer = await staging.atLeast(rows * cols * 4);
  backend.run("dequantize", { weight, y: matrix(buffer, "f32", rows, cols) });
  return buffer;
}

async function addChunks(
  backend: Backend,
  values: DeviceBuffer,
  tensor: StoredTensor,
  reader: ChunkReader,
  sums: readonly ErrorSums[],
): Promise<void> {
  const dtype = tensor.dtype as FloatDType;
  for await (const { bytes, at } of reader.chunks(tensor)) {
    const exact = toF32(dtype, bytes);
    const first = (at * 8) / DTYPE_BITS[dtype];
    const held = toF32("F32", await backend.read(values, first * 4, exact.length * 4));
    for (const sum of sums) sum.add(exact, held);
  }
}
