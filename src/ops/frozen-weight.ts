// The frozen weight of one linear, [M, K] row-major, in any base format. Never trained, so it has no gradient.

import type { Tensor } from "../tensor/tensor.ts";

export type BaseFormat = "nf4" | "fp4" | "bf16" | "f32";

export interface DenseWeight {
  readonly format: "bf16" | "f32";
  /** M, out-features. */
  readonly rows: number;
  /** K, in-features. */
  readonly cols: number;
  /** [M, K] in `format`. */
  readonly values: Tensor;
}

/** Scales of blocks of 64 consecutive values (row-major; blocks may cross rows when 64 does not divide K). */
export type BlockScales =
  /** absmax f32 [1, blocks] */
  | { readonly kind: "plain"; readonly absmax: Tensor }
  /**
   * Double quantisation (QLoRA §3; bitsandbytes): absmax[i] = map[codes[i]]·absmax2[i div 256] + offset.
   * codes u8 [1, blocks], absmax2 f32 [1, ceil(blocks/256)], map f32 [1, 256]; offset = mean of all absmax.
   */
  | {
      readonly kind: "double";
      readonly codes: Tensor;
      readonly absmax2: Tensor;
      readonly map: Tensor;
      readonly offset: number;
    };

export interface FourBitWeight {
  readonly format: "nf4" | "fp4";
  readonly rows: number;
  readonly cols: number;
  /** u8 [1, ceil(M·K/2)]: two codes a byte, the first value in the HIGH nibble. */
  readonly codes: Tensor;
  readonly scales: BlockScales;
}

export type FrozenWeight = DenseWeight | FourBitWeight;

/** Values that share one scale. */
export const QUANT_BLOCK = 64;
/** Scales that share one second-level scale under double quantisation. */
export const SCALE_BLOCK = 256;
