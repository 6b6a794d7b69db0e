// cosSin[n, i] = a·cos(p·f_i), cosSin[n, D/2 + i] = a·sin(p·f_i) with p = positions[n] and a magnitude a, usually 1; the angle is ONE f32 product of the
// integer position and the f32 frequency (as every published implementation computes it). Once a micro-batch, all layers.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";

export interface RopeTableArgs {
  /** i32 [N, 1] */
  readonly positions: Tensor;
  /** f32 [1, D/2]: inverse frequencies, scaling already applied */
  readonly frequencies: Tensor;
  /** f32 [N, D] */
  readonly cosSin: Tensor;
  /** a: how YaRN and LongRoPE make up for the lower entropy of longer contexts. */
  readonly magnitude: number;
}

export const ropeTable: Op<RopeTableArgs> = {
  name: "ropeTable",
  signature: {
    positions: { access: "in", dims: ["N", "1"], dtypes: ["i32"] },
    frequencies: { access: "in", dims: ["1", "*"], dtypes: ["f64", "f32"] },
    cosSin: { access: "out", dims: ["N", "D"], dtypes: ["f64", "f32"] },
  },
  validate({ frequencies, cosSin, magnitude }) {
    if (cosSin.cols !== 2 * frequencies.cols)
      throw broken(ropeTable, "cosSin.cols", `${2 * frequencies.cols}, twice the frequencies`, cosSin.cols);
    if (!(Number.isFinite(magnitude) && magnitude > 0))
      throw broken(ropeTable, "magnitude", "a finite number > 0", magnitude);
  },
  reference({ positions, frequencies, cosSin, magnitude }) {
    const half = frequencies.cols;
    const speed = readMatrix(frequencies);
    const out = new Float64Array(cosSin.rows * cosSin.cols);
    for (const [n, position] of readMatrix(positions).entries())
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(Math.fround(position) * Math.fround(speed[i]!));
        out[n * 2 * half + i] = magnitude * Math.cos(angle);
        out[n * 2 * half + half + i] = magnitude * Math.sin(angle);
      }
    writeMatrix(cosSin, out);
  },
  samples: [
    { name: "one of everything", dtypes: FLOATS, make: (m) => sampleCall(m, [3], 1) },
    { name: "prime sizes", dtypes: FLOATS, make: (m) => sampleCall(m, [0, 1, 2, 0, 1], 7) },
    { name: "wide", dtypes: FLOATS, make: (m) => sampleCall(m, [1, 77], 67) },
    {
      name: "head dim 128, late positions",
      dtypes: FLOATS,
      make: (m) => sampleCall(m, [0, 8191, 131_071, 1_000_003], 64),
    },
    { name: "a magnitude", dtypes: FLOATS, make: (m) => ({ ...sampleCall(m, [0, 5, 9], 9), magnitude: 1.19 }) },
  ],
  badSamples: [
    { name: "magnitude 0", make: (m) => ({ ...sampleCall(m, [0, 1], 4), magnitude: 0 }) },
    {
      name: "a table of another width",
      make: (m) => ({ ...sampleCall(m, [0, 1], 4), cosSin: m.output("out", "f32", 2, 10) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-14, reason: "the same f32 angle, then the math library" },
    f32: { normalised: 5e-7, worst: 2e-6, reason: "the same f32 angle, then a sine good to some 2⁻²⁴ of 1" },
  },
  cost: (args) => ({ flops: 2 * args.cosSin.rows * args.cosSin.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, positions: number[], half: number): RopeTableArgs {
  const dtype = statisticsDtype(m.dtype);
  return {
    positions: m.values("i32", positions.length, 1, positions),
    frequencies: m.values(
      dtype,
      1,
      half,
      Float32Array.from({ length: half }, (_, i) => 10_000 ** (-i / half)),
    ),
    cosSin: m.output("out", dtype, positions.length, 2 * half),
    magnitude: 1,
  };
}
