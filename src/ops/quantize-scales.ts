// Double quantisation of block scales (QLoRA §3, as bitsandbytes codes it): offset = mean of ALL absmax, summed in f64 and
// rounded once to f32; c = absmax − offset in f32; per block of 256, absmax2 = max|c| and code = entry of the map nearest to
// c·(1/max(absmax2, 1e-38)), both operations rounded to f32; thresholds are the f32 midpoints of the map's neighbours, and a
// tie goes to the lower entry. Every backend gives the same bits.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { midpoints, nearestLevel } from "./code-books.ts";
import { SCALE_BLOCK } from "./frozen-weight.ts";
import { broken, bytesOf, type Op } from "./op.ts";
import { blockAbsmax, reciprocal } from "./quantize-4bit.ts";

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
  validate({ absmax, map, codes, absmax2 }) {
    const blocks = Math.ceil(absmax.cols / SCALE_BLOCK);
    if (map.cols !== 256) throw broken(quantizeScales, "map.cols", "256", map.cols);
    if (codes.cols !== absmax.cols) throw broken(quantizeScales, "codes.cols", `${absmax.cols}, as absmax`, codes.cols);
    if (absmax2.cols !== blocks)
      throw broken(quantizeScales, "absmax2.cols", `${blocks} blocks of scales`, absmax2.cols);
    if (absmax.cols === 0) throw broken(quantizeScales, "absmax.cols", "at least one scale, to take the mean", 0);
  },
  reference({ absmax, map, codes, absmax2, offset }) {
    const scales = readMatrix(absmax);
    const mean = Math.fround(scales.reduce((sum, scale) => sum + scale, 0) / scales.length);
    const centred = scales.map((scale) => Math.fround(scale - mean));
    const largest = blockAbsmax(centred, SCALE_BLOCK);
    const thresholds = midpoints(Float32Array.from(readMatrix(map)));
    writeMatrix(offset, [mean]);
    writeMatrix(absmax2, largest);
    writeMatrix(
      codes,
      centred.map((value, i) => {
        const x = Math.fround(value * reciprocal(largest[Math.floor(i / SCALE_BLOCK)]!));
        return nearestLevel(thresholds, x);
      }),
    );
  },
  samples: [],
  badSamples: [],
  tolerance: "exact",
  cost: (args) => ({ flops: 12 * args.absmax.cols, bytes: bytesOf(args) }),
};
