// With P = exp(Z − lse) over the keys that a query sees, and δ_n = dO_n·o_n:  dV = Pᵀ dO;  dZ = P⊙(dO·Vᵀ − δ);
// dS = dZ, with a soft cap dZ⊙(1 − (Z/softCap)²);  dQ = scale·dS·K;  dK = scale·dSᵀ·Q, summed over the query heads of a
// group (arXiv 2307.08691 §3.1.2). Z and who sees whom as in attention.ts. Tail padding rows: 0.
// Derivation: docs/math/attention.md.

import { writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { ATTENTION_SHAPES, type AttentionShape, attention, sampleAttention } from "./attention.ts";
import {
  type AttentionAttributes,
  checkAttention,
  dot,
  firstSeen,
  headsOf,
  scoreOf,
  segmentsOf,
  visiblePairs,
  zeroHeads,
} from "./attention-heads.ts";
import { broken, bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface AttentionBackwardArgs extends AttentionAttributes {
  /** [N, H·D] */
  readonly q: Tensor;
  /** [N, G·D] */
  readonly k: Tensor;
  /** [N, G·D] */
  readonly v: Tensor;
  /** i32 [S+1, 1]: first row of each segment, then the end; rows from starts[S] on are tail padding */
  readonly starts: Tensor;
  /** [N, H·D] */
  readonly o: Tensor;
  /** f32 [N, H] */
  readonly lse: Tensor;
  /** [N, H·D] */
  readonly dO: Tensor;
  /** [N, H·D] */
  readonly dq: Tensor;
  /** [N, G·D] */
  readonly dk: Tensor;
  /** [N, G·D] */
  readonly dv: Tensor;
}

export const attentionBackward: Op<AttentionBackwardArgs> = {
  name: "attentionBackward",
  signature: {
    q: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    k: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    v: { access: "in", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    starts: { access: "in", dims: ["S+1", "1"], dtypes: ["i32"] },
    o: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    lse: { access: "in", dims: ["N", "H"], dtypes: ["f64", "f32"] },
    dO: { access: "in", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    dq: { access: "out", dims: ["N", "HD"], dtypes: ["f64", "f32", "bf16"] },
    dk: { access: "out", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
    dv: { access: "out", dims: ["N", "GD"], dtypes: ["f64", "f32", "bf16"] },
  },
  validate({ q, k, lse, ...attributes }) {
    checkAttention(attentionBackward, q.cols, k.cols, attributes);
    const heads = q.cols / attributes.headDim;
    if (lse.cols !== heads) throw broken(attentionBackward, "lse.cols", `${heads} query heads`, lse.cols);
  },
  reference(args) {
    const { headDim, scale, softCap, starts } = args;
    const [q, k, v] = [headsOf(args.q, headDim), headsOf(args.k, headDim), headsOf(args.v, headDim)];
    const [o, dO, lse] = [headsOf(args.o, headDim), headsOf(args.dO, headDim), headsOf(args.lse, 1)];
    const dq = zeroHeads(q, headDim);
    const dk = zeroHeads(k, headDim);
    const dv = zeroHeads(v, headDim);
    for (const { from, to } of segmentsOf(starts))
      for (let n = from; n < to; n++)
        for (let h = 0; h < q.count; h++) {
          const g = Math.floor(h / (q.count / k.count));
          const delta = dot(dO.at(n, h), o.at(n, h));
          for (let j = firstSeen(from, n, args); j <= n; j++) {
            const z = scoreOf(dot(q.at(n, h), k.at(j, g)), args);
            const p = Math.exp(z - lse.at(n, h)[0]!);
            const slope = softCap === null ? 1 : 1 - (z / softCap) ** 2;
            const ds = scale * slope * p * (dot(dO.at(n, h), v.at(j, g)) - delta);
            addScaled(dv.at(j, g), p, dO.at(n, h));
            addScaled(dq.at(n, h), ds, k.at(j, g));
            addScaled(dk.at(j, g), ds, q.at(n, h));
          }
        }
    writeMatrix(args.dq, dq.all);
    writeMatrix(args.dk, dk.all);
    writeMatrix(args.dv, dv.all);
  },
  samples: ATTENTION_SHAPES.map((shape) => ({
    name: shape.name,
    dtypes: FLOATS,
    make: (m: SampleMaker) => sampleCall(m, shape),
  })),
  badSamples: [
    { name: "a head dim that does not divide", make: (m) => ({ ...sampleCall(m, ATTENTION_SHAPES[2]!), headDim: 5 }) },
    {
      name: "lse of another width",
      make: (m) => ({ ...sampleCall(m, ATTENTION_SHAPES[2]!), lse: m.normal("f32", 19, 2) }),
    },
    {
      name: "dk as wide as q",
      make: (m) => ({ ...sampleCall(m, ATTENTION_SHAPES[2]!), dk: m.output("out", m.dtype, 19, 96) }),
    },
    { name: "a negative window", make: (m) => ({ ...sampleCall(m, ATTENTION_SHAPES[2]!), window: -1 }) },
    { name: "a negative soft cap", make: (m) => ({ ...sampleCall(m, ATTENTION_SHAPES[2]!), softCap: -50 }) },
  ],
  tolerance: {
    f64: { normalised: 1e-13, worst: 1e-12, reason: "double precision, another order of summation" },
    f32: { normalised: 1e-5, worst: 1e-4, reason: "f32 sums over up to some thousand terms in any order" },
    bf16: {
      normalised: 1e-2,
      worst: 1e-1,
      reason:
        "outputs, and factors on the way to them, rounded to bf16 (2⁻⁹ each); keys early in a segment get ten times the rms",
    },
  },
  // Five products over the visible pairs; segments are not known here, so one is assumed.
  cost: (args) => ({ flops: 10 * visiblePairs(args.q.rows, args) * args.q.cols, bytes: bytesOf(args) }),
};

function addScaled(target: Float64Array, factor: number, values: Float64Array): void {
  for (let d = 0; d < target.length; d++) target[d]! += factor * values[d]!;
}

/** o and lse are those of the forward, rounded as it would save them. */
function sampleCall(m: SampleMaker, shape: AttentionShape): AttentionBackwardArgs {
  const forward = sampleAttention(m, shape);
  attention.reference(forward);
  const { q, k } = forward;
  return {
    ...forward,
    dO: m.normal(m.dtype, q.rows, q.cols),
    dq: m.output("out", m.dtype, q.rows, q.cols),
    dk: m.output("out", m.dtype, k.rows, k.cols),
    dv: m.output("out", m.dtype, k.rows, k.cols),
  };
}
