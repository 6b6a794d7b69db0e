// The two moments of Adam, per trained matrix: how they are stored, and where.

import { momentBlocks } from "../ops/adam-w-8bit.ts";
import type { DType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * `adam32`: f32 on the device, 8 bytes a weight. `adam32-paged`: the same bits in host memory that the device reads and
 * writes across the bus (QLoRA's paged optimizer). `adam8`: 8-bit codes on the device, about 2 bytes a weight.
 */
export type OptimizerState = "adam32" | "adam32-paged" | "adam8";

/** `auto`: adam32, paged if the device has no room for it otherwise. */
export type OptimizerChoice = OptimizerState | "auto";

export const OPTIMIZER_STATES = ["adam32", "adam32-paged", "adam8"] as const satisfies readonly OptimizerState[];
export const OPTIMIZER_CHOICES = ["auto", ...OPTIMIZER_STATES] as const satisfies readonly OptimizerChoice[];

/** f32 [R, cols] */
export interface FullMoments {
  readonly kind: "adam32";
  readonly tensors: Readonly<Record<"m" | "v", Tensor>>;
}

/** Codes u8 [R, cols] and absmax f32 [R, ceil(cols/256)] of each moment. */
export interface CodedMoments {
  readonly kind: "adam8";
  readonly tensors: Readonly<Record<"mCodes" | "mAbsmax" | "vCodes" | "vAbsmax", Tensor>>;
}

export type Moments = FullMoments | CodedMoments;

/** What one matrix of `cols` columns needs of each pool: name in files, dtype, columns. */
interface MomentPool {
  readonly key: string;
  readonly dtype: Extract<DType, "f32" | "u8">;
  readonly cols: (cols: number) => number;
}

const same = (cols: number): number => cols;

const POOLS: Readonly<Record<Moments["kind"], readonly MomentPool[]>> = {
  adam32: [
    { key: "m", dtype: "f32", cols: same },
    { key: "v", dtype: "f32", cols: same },
  ],
  adam8: ["m", "v"].flatMap((moment): MomentPool[] => [
    { key: `${moment}Codes`, dtype: "u8", cols: same },
    { key: `${moment}Absmax`, dtype: "f32", cols: momentBlocks },
  ]),
};

export const momentKind = (state: OptimizerChoice): Moments["kind"] => (state === "adam8" ? "adam8" : "adam32");

export const momentPools = (state: OptimizerState): readonly MomentPool[] => POOLS[momentKind(state)];
