// Head and loss in one, in chunks of rows, so that the [N, V] logits never exist (as in arXiv 2410.10989).
//   z = x·weightᵀ;  loss_n = log Σ_v e^{z_nv} − z_n,target   (stable: the row maximum is subtracted);
//   dx_n = tokenWeight_n · Σ_v (softmax(z_n)_v − [v = target]) · weight_v   if dx is given.
// Rows whose target is −1 are not supervised: loss 0, dx 0. The gradient is taken in the forward, so its factor
// (tokenWeight: 1/supervised tokens of the whole optimizer step) must be known then. `loss` is not weighted.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { bytesOf, type Op } from "./op.ts";
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
  reference({ x, weight, targets, tokenWeights, loss, dx }) {
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
      const logits = timesTransposed(row, head, 1, weight.rows, x.cols);
      const largest = logits.reduce((a, b) => Math.max(a, b));
      const sum = logits.reduce((total, z) => total + Math.exp(z - largest), 0);
      losses[n] = largest + Math.log(sum) - logits[target]!;
      if (!dx) continue;
      // dz = tokenWeight·(softmax(z) − onehot(target)), then dx = dz·weight.
      const dz = logits.map((z, v) => factors[n]! * (Math.exp(z - largest) / sum - (v === target ? 1 : 0)));
      gradient.set(times(dz, head, 1, weight.rows, x.cols), n * x.cols);
    }
    writeMatrix(loss, losses);
    if (dx) writeMatrix(dx, gradient);
  },
  samples: [],
  badSamples: [],
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
  }),
};
