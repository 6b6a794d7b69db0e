// cosSin[n, i] = cos(p·f_i), cosSin[n, D/2 + i] = sin(p·f_i) with p = positions[n]; the angle is ONE f32 product of the
// integer position and the f32 frequency (as every published implementation computes it). Once a micro-batch, all layers.

import type { Tensor } from "../tensor/tensor.ts";
import type { Op } from "./op.ts";

export interface RopeTableArgs {
  /** i32 [N, 1] */
  readonly positions: Tensor;
  /** f32 [1, D/2]: inverse frequencies, scaling already applied */
  readonly frequencies: Tensor;
  /** f32 [N, D] */
  readonly cosSin: Tensor;
}

export const ropeTable: Op<RopeTableArgs> = {
  name: "ropeTable",
  signature: {
    positions: { access: "in", dims: ["N", "1"], dtypes: ["i32"] },
    frequencies: { access: "in", dims: ["1", "*"], dtypes: ["f64", "f32"] },
    cosSin: { access: "out", dims: ["N", "D"], dtypes: ["f64", "f32"] },
  },
  // TODO-R reference, samples, badSamples, tolerance, cost
};
