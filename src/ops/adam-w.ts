// AdamW (arXiv 1711.05101) over the row window [from, to): rows outside keep weights, moments and counters to the bit.
// With g = gradientScale·gradient and n = steps[row] (this update included):
//   m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²;  p −= lr·( (m/(1−β₁ⁿ)) / (√(v/(1−β₂ⁿ)) + ε) + decay·p ).
// 1−βⁿ is taken in f64 (in f32 it loses four digits at n = 1). Each row counts its own updates, so a row that is seldom drawn is not under-corrected. `copy` receives the new p in the compute dtype.

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { broken, type Op, type SampleMaker } from "./op.ts";

export interface AdamWArgs {
  /** f32 [R, C] */
  readonly param: Tensor;
  /** f32 [R, C] */
  readonly gradient: Tensor;
  /** f32 [R, C] */
  readonly m: Tensor;
  /** f32 [R, C] */
  readonly v: Tensor;
  /** i32 [R, 1]: updates of each row, this one included */
  readonly steps: Tensor;
  /** bf16 [R, C] or null */
  readonly copy: Tensor | null;
  /** First row updated. */
  readonly from: number;
  /** End of the rows updated. */
  readonly to: number;
  /** lr */
  readonly learningRate: number;
  /** β₁ */
  readonly beta1: number;
  /** β₂ */
  readonly beta2: number;
  /** ε */
  readonly epsilon: number;
  /** Decoupled decay, multiplied by lr. */
  readonly weightDecay: number;
  /** Clipping factor. */
  readonly gradientScale: number;
}

export const adamW: Op<AdamWArgs> = {
  name: "adamW",
  signature: {
    param: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    gradient: { access: "in", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    m: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    v: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"] },
    steps: { access: "in", dims: ["R", "1"], dtypes: ["i32"] },
    copy: { access: "acc", dims: ["R", "C"], dtypes: ["bf16"], optional: true },
  },
  validate({ param, from, to, learningRate, beta1, beta2, epsilon, weightDecay, gradientScale }) {
    if (!Number.isInteger(from) || from < 0) throw broken(adamW, "from", "a whole number ≥ 0", from);
    if (!Number.isInteger(to) || to < from || to > param.rows)
      throw broken(adamW, "to", `from ${from} to ${param.rows} rows`, to);
    if (!(learningRate >= 0)) throw broken(adamW, "learningRate", "a number ≥ 0", learningRate);
    for (const [name, beta] of Object.entries({ beta1, beta2 }))
      if (!(beta >= 0 && beta < 1)) throw broken(adamW, name, "from 0 to below 1", beta);
    if (!(epsilon > 0)) throw broken(adamW, "epsilon", "a number > 0, which keeps a zero gradient finite", epsilon);
    if (!(weightDecay >= 0)) throw broken(adamW, "weightDecay", "a number ≥ 0", weightDecay);
    if (!Number.isFinite(gradientScale)) throw broken(adamW, "gradientScale", "a finite number", gradientScale);
  },
  reference(args) {
    const { learningRate, beta1, beta2, epsilon, weightDecay, gradientScale } = args;
    for (let row = args.from; row < args.to; row++) {
      const rowOf = (tensor: Tensor) => rowSlice(tensor, row, row + 1);
      const [p, g, m, v] = [args.param, args.gradient, args.m, args.v].map((tensor) => readMatrix(rowOf(tensor)));
      const n = readMatrix(rowOf(args.steps))[0]!;
      for (let c = 0; c < args.param.cols; c++) {
        const gradient = gradientScale * g![c]!;
        m![c] = beta1 * m![c]! + (1 - beta1) * gradient;
        v![c] = beta2 * v![c]! + (1 - beta2) * gradient * gradient;
        const mHat = m![c]! / (1 - beta1 ** n);
        const vHat = v![c]! / (1 - beta2 ** n);
        p![c]! -= learningRate * (mHat / (Math.sqrt(vHat) + epsilon) + weightDecay * p![c]!);
      }
      writeMatrix(rowOf(args.param), p!);
      writeMatrix(rowOf(args.m), m!);
      writeMatrix(rowOf(args.v), v!);
      if (args.copy) writeMatrix(rowOf(args.copy), p!);
    }
  },
  samples: [
    { name: "one of everything", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 1, 1, 0, 1) },
    { name: "all rows", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 7, 13, 0, 7) },
    { name: "a window", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 11, 129, 3, 8) },
    { name: "one row (frozen mode)", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 5, 67, 4, 5) },
    { name: "an empty window", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 5, 67, 2, 2) },
    { name: "no copy", dtypes: ["f64", "f32"], make: (m) => ({ ...sampleCall(m, 32, 192, 0, 16), copy: null }) },
    {
      name: "no gradient yet",
      dtypes: ["f64", "f32"],
      make(m) {
        const zero = () => m.values(m.dtype, 2, 3, new Float64Array(6));
        return { ...sampleCall(m, 2, 3, 0, 2), gradient: zero(), m: zero(), v: zero() };
      },
    },
  ],
  badSamples: [
    { name: "a window past the end", make: (m) => sampleCall(m, 3, 4, 0, 4) },
    { name: "a window that ends before it starts", make: (m) => sampleCall(m, 3, 4, 2, 1) },
    { name: "epsilon 0", make: (m) => ({ ...sampleCall(m, 3, 4, 0, 3), epsilon: 0 }) },
    { name: "β₂ = 1", make: (m) => ({ ...sampleCall(m, 3, 4, 0, 3), beta2: 1 }) },
    {
      name: "a learning rate that is not a number",
      make: (m) => ({ ...sampleCall(m, 3, 4, 0, 3), learningRate: Number.NaN }),
    },
    { name: "an infinite gradient scale", make: (m) => ({ ...sampleCall(m, 3, 4, 0, 3), gradientScale: 1 / 0 }) },
    {
      name: "steps of another height",
      make: (m) => ({ ...sampleCall(m, 3, 4, 0, 3), steps: m.integers("i32", 4, 1, 1, 9) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some ten f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "the copy is one rounding of the new weight, at most 2⁻⁹ of it" },
  },
  cost({ param, copy, from, to }) {
    const values = (to - from) * param.cols;
    return {
      flops: 14 * values,
      bytes: values * (7 * BYTES_PER_ELEMENT[param.dtype] + (copy ? 2 : 0)) + 4 * (to - from),
    };
  },
};

function sampleCall(maker: SampleMaker, rows: number, cols: number, from: number, to: number): AdamWArgs {
  const dtype = maker.dtype === "f64" ? "f64" : "f32";
  const squares = readMatrix(maker.normal(dtype, rows, cols, 0.1)).map((value) => value * value);
  return {
    param: maker.output("acc", dtype, rows, cols),
    gradient: maker.normal(dtype, rows, cols),
    m: maker.output("acc", dtype, rows, cols),
    v: maker.values(dtype, rows, cols, squares),
    steps: maker.values(
      "i32",
      rows,
      1,
      Float64Array.from({ length: rows }, (_, row) => (row % 3 === 0 ? 1 : 40 * row)),
    ),
    copy: maker.output("acc", "bf16", rows, cols),
    from,
    to,
    learningRate: 0.01,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0.1,
    gradientScale: 0.5,
  };
}
