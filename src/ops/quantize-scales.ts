// Double quantisation of block scales (QLoRA §3, as bitsandbytes codes it): offset = mean of ALL absmax; per block of 256,
// absmax2 = max|absmax − offset|, code = nearest entry of the signed dynamic map of (absmax − offset)/absmax2.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface QuantizeScalesArgs {
  /** f32 [1, blocks] */
  readonly absmax: Tensor;
  /** f32 [1, 256], ascending */
  readonly map: Tensor;
  /** u8 [1, blocks] */
  readonly codes: Tensor;
  /** f32 [1, ceil(blocks/256)] */
  readonly absmax2: Tensor;
  /** f32 [1, 1] */
  readonly offset: Tensor;
}

export const quantizeScales: Op<QuantizeScalesArgs> = {
  name: "quantizeScales",
  signature: {
    absmax: { access: "in", dims: ["1", "*"], dtypes: ["f32"] },
    map: { access: "in", dims: ["1", "*"], dtypes: ["f32"] },
    codes: { access: "out", dims: ["1", "*"], dtypes: ["u8"] },
    absmax2: { access: "out", dims: ["1", "*"], dtypes: ["f32"] },
    offset: { access: "out", dims: ["1", "1"], dtypes: ["f32"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
