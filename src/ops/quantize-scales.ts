// Double quantisation of block scales (QLoRA §3, as bitsandbytes codes it): offset = mean of ALL absmax, summed in f64 and
// rounded once to f32; c = absmax − offset in f32; per block of 256, absmax2 = max|c| and code = entry of the map nearest to
// c·(1/max(absmax2, 1e-38)), both operations rounded to f32; thresholds are the f32 midpoints of the map's neighbours, and a
// tie goes to the lower entry. Every backend gives the same bits.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { dynamicMap, midpoints, nearestLevel } from "./code-books.ts";
import { SCALE_BLOCK } from "./frozen-weight.ts";
import { broken, bytesOf, type Op, type SampleMaker } from "./op.ts";
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
  samples: [
    ...[1, 7, 256, 257, 1000].map((blocks) => ({
      name: `${blocks} scales`,
      dtypes: ["f32"] as const,
      make: (m: SampleMaker) =>
        sampleCall(
          m,
          readMatrix(m.normal("f32", 1, blocks, 0.02)).map((s) => 0.1 + Math.abs(s)),
        ),
    })),
    { name: "equal scales", dtypes: ["f32"], make: (m) => sampleCall(m, new Float64Array(300).fill(0.1)) },
    {
      name: "zeros among scales",
      dtypes: ["f32"],
      make: (m) => sampleCall(m, Float64Array.from([0, 0.5, 0, 0.25, 1e-30])),
    },
  ],
  badSamples: [
    {
      name: "a short map",
      make: (m) => ({ ...sampleCall(m, new Float64Array(3)), map: m.values("f32", 1, 255, new Float64Array(255)) }),
    },
    {
      name: "too few codes",
      make: (m) => ({ ...sampleCall(m, new Float64Array(3)), codes: m.output("out", "u8", 1, 2) }),
    },
    {
      name: "too many second-level scales",
      make: (m) => ({ ...sampleCall(m, new Float64Array(3)), absmax2: m.output("out", "f32", 1, 2) }),
    },
    { name: "nothing to quantise", make: (m) => sampleCall(m, new Float64Array(0)) },
  ],
  tolerance: "exact",
  cost: (args) => ({ flops: 12 * args.absmax.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, scales: Float64Array): QuantizeScalesArgs {
  return {
    absmax: m.values("f32", 1, scales.length, scales),
    map: m.values("f32", 1, 256, dynamicMap()),
    codes: m.output("out", "u8", 1, scales.length),
    absmax2: m.output("out", "f32", 1, Math.ceil(scales.length / SCALE_BLOCK)),
    offset: m.output("out", "f32", 1, 1),
  };
}
