// AdamW (arXiv 1711.05101) over the row window [from, to) of a list of tensors, in one call: rows outside the window keep
// weights, moments and counters to the bit. With n = steps[row] (this update included) and
// g = min(1, maxNorm/(√squares + 10⁻⁶))·gradient, where squares = Σ gradient² of all tensors (torch's clip_grad_norm_):
//   m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²;  p −= lr·( (m/(1−β₁ⁿ)) / (√(v/(1−β₂ⁿ)) + ε) + decay·p ).
// If squares is not finite nothing changes, so that one bad batch spoils no weight and no moment; the caller sees it in squares.
// 1−βⁿ is taken in f64 (in f32 it loses four digits at n = 1). Each row counts its own updates, so a row that is seldom
// drawn is not under-corrected. `copies` receive the new p in the compute dtype.

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { type AdamWSettings, adamWRow, checkAdamW, clipFactor, SETTINGS_SAMPLE } from "./adam-w-rule.ts";
import type { BadSample, Op, SampleMaker } from "./op.ts";

export interface AdamWArgs extends AdamWSettings {
  /** f32 [R, C_i] */
  readonly params: readonly Tensor[];
  /** f32 [R, C_i] */
  readonly gradients: readonly Tensor[];
  /** f32 [R, C_i] */
  readonly ms: readonly Tensor[];
  /** f32 [R, C_i] */
  readonly vs: readonly Tensor[];
  /** bf16 [R, C_i] or null */
  readonly copies: readonly (Tensor | null)[];
  /** i32 [R, 1]: updates of each row, this one included */
  readonly steps: Tensor;
  /** f32 [1, 1]: Σ gradient² over the window's rows of all tensors */
  readonly squares: Tensor;
}

export const adamW: Op<AdamWArgs> = {
  name: "adamW",
  signature: {
    params: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"], list: { varying: ["C"] } },
    gradients: { access: "in", dims: ["R", "C"], dtypes: ["f64", "f32"], list: { varying: ["C"] } },
    ms: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"], list: { varying: ["C"] } },
    vs: { access: "acc", dims: ["R", "C"], dtypes: ["f64", "f32"], list: { varying: ["C"] } },
    copies: { access: "acc", dims: ["R", "C"], dtypes: ["bf16"], optional: true, list: { varying: ["C"] } },
    steps: { access: "in", dims: ["R", "1"], dtypes: ["i32"] },
    squares: { access: "in", dims: ["1", "1"], dtypes: ["f64", "f32"] },
  },
  validate({ params, gradients, ms, vs, copies, steps, ...settings }) {
    checkAdamW(adamW, settings, steps.rows, params.length, { gradients, ms, vs, copies });
  },
  reference(args) {
    const scale = clipFactor(readMatrix(args.squares)[0]!, args.maxNorm);
    if (Number.isNaN(scale)) return;
    const steps = readMatrix(args.steps);
    for (const [i, param] of args.params.entries())
      for (let row = args.from; row < args.to; row++) {
        const rowOf = (tensor: Tensor) => rowSlice(tensor, row, row + 1);
        const [p, g, m, v] = [param, args.gradients[i]!, args.ms[i]!, args.vs[i]!].map((t) => readMatrix(rowOf(t)));
        adamWRow({ p: p!, g: g!, m: m!, v: v! }, scale, steps[row]!, args.learningRates[i]!, args);
        writeMatrix(rowOf(param), p!);
        writeMatrix(rowOf(args.ms[i]!), m!);
        writeMatrix(rowOf(args.vs[i]!), v!);
        const copy = args.copies[i];
        if (copy) writeMatrix(rowOf(copy), p!);
      }
  },
  samples: [
    { name: "one of everything", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 1, [1], 0, 1) },
    { name: "all rows", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 7, [13], 0, 7) },
    { name: "a window", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 11, [129], 3, 8) },
    { name: "one row (frozen mode)", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 5, [67], 4, 5) },
    { name: "an empty window", dtypes: ["f64", "f32"], make: (m) => sampleCall(m, 5, [67], 2, 2) },
    {
      name: "tensors of many widths",
      dtypes: ["f64", "f32"],
      make: (m) => sampleCall(m, 9, [64, 1, 1000, 17, 256], 2, 7),
    },
    { name: "no copy", dtypes: ["f64", "f32"], make: (m) => ({ ...sampleCall(m, 32, [192], 0, 16), copies: [null] }) },
    { name: "no clipping", dtypes: ["f64", "f32"], make: (m) => ({ ...sampleCall(m, 3, [50], 0, 3), maxNorm: 0 }) },
    {
      name: "a norm below the bound",
      dtypes: ["f64", "f32"],
      make: (m) => ({ ...sampleCall(m, 3, [50], 0, 3), maxNorm: 1e4 }),
    },
    ...[Number.NaN, Number.POSITIVE_INFINITY].map((squares) => ({
      name: `a norm that is ${squares}`,
      dtypes: ["f64", "f32"] as const,
      make: (m: SampleMaker) => ({ ...sampleCall(m, 4, [30], 0, 4), squares: m.values(dtypeOf(m), 1, 1, [squares]) }),
    })),
    {
      name: "no gradient yet",
      dtypes: ["f64", "f32"],
      make(m) {
        const zero = () => [m.values(dtypeOf(m), 2, 3, new Float64Array(6))];
        const squares = m.values(dtypeOf(m), 1, 1, [0]);
        return { ...sampleCall(m, 2, [3], 0, 2), gradients: zero(), ms: zero(), vs: zero(), squares };
      },
    },
  ],
  badSamples: adamWBadSamples(),
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some ten f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "the copy is one rounding of the new weight, at most 2⁻⁹ of it" },
  },
  cost({ params, copies, from, to }) {
    const bytesPerValue = (param: Tensor, i: number) => 7 * BYTES_PER_ELEMENT[param.dtype] + (copies[i] ? 2 : 0);
    return {
      flops: params.reduce((sum, { cols }) => sum + 14 * (to - from) * cols, 0),
      bytes: params.reduce(
        (sum, param, i) => sum + (to - from) * param.cols * bytesPerValue(param, i),
        4 * (to - from),
      ),
    };
  },
};

function adamWBadSamples(): BadSample<AdamWArgs>[] {
  const call = (m: SampleMaker) => sampleCall(m, 3, [4], 0, 3);
  return [
    { name: "a window past the end", make: (m) => ({ ...call(m), to: 4 }) },
    { name: "a window that ends before it starts", make: (m) => ({ ...call(m), from: 2, to: 1 }) },
    { name: "epsilon 0", make: (m) => ({ ...call(m), epsilon: 0 }) },
    { name: "β₂ = 1", make: (m) => ({ ...call(m), beta2: 1 }) },
    { name: "a learning rate that is not a number", make: (m) => ({ ...call(m), learningRates: [Number.NaN] }) },
    { name: "a learning rate too few", make: (m) => ({ ...call(m), learningRates: [] }) },
    { name: "a gradient too few", make: (m) => ({ ...call(m), gradients: [] }) },
    { name: "a negative bound on the norm", make: (m) => ({ ...call(m), maxNorm: -1 }) },
    { name: "steps of another height", make: (m) => ({ ...call(m), steps: m.integers("i32", 4, 1, 1, 9) }) },
  ];
}

const dtypeOf = (m: SampleMaker) => (m.dtype === "f64" ? "f64" : "f32");

function sampleCall(m: SampleMaker, rows: number, widths: readonly number[], from: number, to: number): AdamWArgs {
  const dtype = dtypeOf(m);
  const squared = (cols: number) => readMatrix(m.normal(dtype, rows, cols, 0.1)).map((value) => value * value);
  return {
    params: widths.map((cols) => m.output("acc", dtype, rows, cols)),
    gradients: widths.map((cols) => m.normal(dtype, rows, cols)),
    ms: widths.map((cols) => m.output("acc", dtype, rows, cols)),
    vs: widths.map((cols) => m.values(dtype, rows, cols, squared(cols))),
    copies: widths.map((cols) => m.output("acc", "bf16", rows, cols)),
    steps: m.values(
      "i32",
      rows,
      1,
      Float64Array.from({ length: rows }, (_, row) => (row % 3 === 0 ? 1 : 40 * row)),
    ),
    squares: m.values(dtype, 1, 1, [4]),
    from,
    to,
    learningRates: widths.map((_, i) => 0.01 * (i + 1)),
    ...SETTINGS_SAMPLE,
  };
}
