// Head and loss in one, in chunks of rows, so that the [N, V] logits never exist (as in arXiv 2410.10989).
//   z = x·weightᵀ, or softCap·tanh(x·weightᵀ/softCap);  loss_n = log Σ_v e^{z_nv} − z_n,target   (stable: the row maximum is subtracted);
//   dx_n = tokenWeight_n · Σ_v (softmax(z_n)_v − [v = target]) · slope_v · weight_v   if dx is given;
//   slope_v = 1, with a soft cap 1 − (z_v/softCap)².
// Rows whose target is −1 are not supervised: loss 0, dx 0. The gradient is taken in the forward, so its factor
// (tokenWeight: 1/supervised tokens of the whole optimizer step) must be known then. `loss` is not weighted.
// The weight is used as it is stored, whatever the dtype of x. Softmax and loss are in f32.
// Derivation: docs/math/linear-cross-entropy.md.

import type { DType } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker, statisticsDtype } from "./op.ts";
import { times, timesTransposed } from "./products.ts";

export interface LinearCrossEntropyArgs {
  /** [N, C] */
  readonly x: Tensor;
  /** [V, C] */
  readonly weight: Tensor;
  /** i32 [N, 1]; −1: not supervised */
  readonly targets: Tensor;
  /** f32 [N, 1] */
  readonly tokenWeights: Tensor;
  /** f32 [N, 1] */
  readonly loss: Tensor;
  /** [N, C] or null for evaluation */
  readonly dx: Tensor | null;
  /** No logit is larger than this (arXiv 2408.00118 §2); null: logits as they are. */
  readonly softCap: number | null;
}

export const linearCrossEntropy: Op<LinearCrossEntropyArgs> = {
  name: "linearCrossEntropy",
  signature: {
    x: { access: "in", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"] },
    weight: { access: "in", dims: ["V", "C"], dtypes: ["f64", "f32", "bf16"] },
    targets: { access: "in", dims: ["N", "1"], dtypes: ["i32"] },
    tokenWeights: { access: "in", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    loss: { access: "out", dims: ["N", "1"], dtypes: ["f64", "f32"] },
    dx: { access: "out", dims: ["N", "C"], dtypes: ["f64", "f32", "bf16"], optional: true },
  },
  validate({ softCap }) {
    if (softCap !== null && !(Number.isFinite(softCap) && softCap > 0))
      throw broken(linearCrossEntropy, "softCap", "null or a finite number > 0", softCap);
  },
  reference({ x, weight, targets, tokenWeights, loss, dx, softCap }) {
    const input = readMatrix(x);
    const head = readMatrix(weight);
    const wanted = readMatrix(targets);
    const factors = readMatrix(tokenWeights);
    const losses = new Float64Array(x.rows);
    const gradient = new Float64Array(x.rows * x.cols);
    for (let n = 0; n < x.rows; n++) {
      const target = wanted[n]!;
      if (target < 0) continue;
      const row = input.subarray(n * x.cols, (n + 1) * x.cols);
      const products = timesTransposed(row, head, 1, weight.rows, x.cols);
      const logits = softCap === null ? products : products.map((z) => softCap * Math.tanh(z / softCap));
      const largest = logits.reduce((a, b) => Math.max(a, b));
      const sum = logits.reduce((total, z) => total + Math.exp(z - largest), 0);
      losses[n] = largest + Math.log(sum) - logits[target]!;
      if (!dx) continue;
      // dz = tokenWeight·(softmax(z) − onehot(target))·slope, then dx = dz·weight.
      const slope = (z: number) => (softCap === null ? 1 : 1 - (z / softCap) ** 2);
      const dz = logits.map((z, v) => factors[n]! * slope(z) * (Math.exp(z - largest) / sum - (v === target ? 1 : 0)));
      gradient.set(times(dz, head, 1, weight.rows, x.cols), n * x.cols);
    }
    writeMatrix(loss, losses);
    if (dx) writeMatrix(dx, gradient);
  },
  samples: [
    { name: "one of everything", dtypes: FLOATS, make: (m) => sampleCall(m, { n: 1, c: 1, v: 1 }) },
    { name: "prime sizes", dtypes: FLOATS, make: (m) => sampleCall(m, { n: 5, c: 7, v: 11 }) },
    { name: "chunks", dtypes: FLOATS, make: (m) => sampleCall(m, { n: 70, c: 96, v: 517 }) },
    {
      name: "evaluation: no dx",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, { n: 33, c: 65, v: 257 }), dx: null }),
    },
    {
      name: "no supervised row",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, { n: 4, c: 7, v: 5 }), targets: m.values("i32", 4, 1, [-1, -1, -1, -1]) }),
    },
    {
      name: "logits that overflow exp",
      dtypes: FLOATS,
      make: (m) => sampleCall(m, { n: 9, c: 65, v: 130, spread: 20 }),
    },
    {
      name: "logits of ±10000",
      dtypes: FLOATS,
      make: (m) => ({
        ...sampleCall(m, { n: 3, c: 1, v: 3 }),
        x: m.values(m.dtype, 3, 1, [1, -1, 1]),
        weight: m.values(m.dtype, 3, 1, [9984, 0, -9984]),
        targets: m.values("i32", 3, 1, [0, 0, 2]),
      }),
    },
    { name: "bf16 weight", dtypes: FLOATS, make: (m) => sampleCall(m, { n: 9, c: 67, v: 130, weightDtype: "bf16" }) },
    { name: "f32 weight", dtypes: FLOATS, make: (m) => sampleCall(m, { n: 9, c: 67, v: 130, weightDtype: "f32" }) },
    {
      name: "soft-capped logits",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, { n: 19, c: 65, v: 257, spread: 4 }), softCap: 3 }),
    },
    {
      name: "soft-capped logits, no dx",
      dtypes: FLOATS,
      make: (m) => ({ ...sampleCall(m, { n: 7, c: 33, v: 130, spread: 20 }), softCap: 30, dx: null }),
    },
    { name: "large", dtypes: ["f32", "bf16"], make: (m) => sampleCall(m, { n: 131, c: 64, v: 2051 }) },
  ],
  badSamples: [
    { name: "a soft cap of 0", make: (m) => ({ ...sampleCall(m, { n: 2, c: 3, v: 5 }), softCap: 0 }) },
    {
      name: "a weight of another width",
      make: (m) => ({ ...sampleCall(m, { n: 2, c: 3, v: 5 }), weight: m.normal(m.dtype, 5, 4) }),
    },
    {
      name: "targets of another height",
      make: (m) => ({ ...sampleCall(m, { n: 2, c: 3, v: 5 }), targets: m.values("i32", 3, 1, [0, 0, 0]) }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-12, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-5, worst: 1e-4, reason: "f32 sums over up to some thousand terms in any order" },
    bf16: {
      normalised: 1e-2,
      worst: 5e-2,
      reason: "outputs, and factors on the way to them, rounded to bf16 (2⁻⁹ each)",
    },
  },
  cost: (args) => ({
    flops: (args.dx ? 4 : 2) * args.x.rows * args.x.cols * args.weight.rows,
    bytes: bytesOf(args),
  }),
  rowsOf: (args, from, to) => ({
    x: rowSlice(args.x, from, to),
    weight: args.weight,
    targets: rowSlice(args.targets, from, to),
    tokenWeights: rowSlice(args.tokenWeights, from, to),
    loss: rowSlice(args.loss, from, to),
    dx: args.dx && rowSlice(args.dx, from, to),
    softCap: args.softCap,
  }),
};

/** Every fourth row or so is not supervised. */
function sampleCall(
  m: SampleMaker,
  {
    n,
    c,
    v,
    spread = 1,
    weightDtype = m.dtype,
  }: { n: number; c: number; v: number; spread?: number; weightDtype?: DType },
): LinearCrossEntropyArgs {
  const statistics = statisticsDtype(m.dtype);
  const drawn = readMatrix(m.integers("i32", n, 1, 0, v));
  return {
    x: m.normal(m.dtype, n, c),
    weight: m.normal(weightDtype, v, c, spread / Math.sqrt(c)),
    targets: m.values(
      "i32",
      n,
      1,
      drawn.map((target, row) => (row % 4 === 2 ? -1 : target)),
    ),
    tokenWeights: m.normal(statistics, n, 1, 0.1),
    loss: m.output("out", statistics, n, 1),
    dx: m.output("out", m.dtype, n, c),
    softCap: null,
  };
}
