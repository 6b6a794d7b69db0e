// Every backward, on the reference and in f64, against a central difference of its forward along a random direction.
// The backward call is built from the op's own gradient rule, so the rule is tested with it.

import { describe, expect, it } from "vitest";
import { OPS, type OpName } from "../../src/ops/index.ts";
import type { LinearCrossEntropyArgs } from "../../src/ops/linear-cross-entropy.ts";
import { type GradientRule, mapTensors, type Op, type OpArgs, tensorsOf } from "../../src/ops/op.ts";
import { hostTensor, readMatrix } from "../../src/tensor/host.ts";
import { isTensor, type Tensor } from "../../src/tensor/tensor.ts";
import { type AnyOp, isOutput, specOf } from "./conformance.ts";
import { normals, sampleMaker } from "./sampling.ts";

/** Samples on which a difference quotient of the rule means nothing, with the reason. */
const NOT_DIFFERENTIABLE: Readonly<Record<string, string>> = {
  "add: NaN and infinity": "no finite value",
  "rmsNorm: a zero row, huge, tiny and NaN rows": "NaN, and curvature beyond any step size at 1e-20",
  "layerNorm: a zero row, a constant, a huge and a NaN row":
    "NaN, and curvature beyond any step size where nothing varies",
  "dropout: NaN and infinity": "no finite value",
  "glu: silu, exp overflows, NaN": "NaN",
  "glu: gelu-tanh, exp overflows, NaN": "NaN",
  "glu: gelu-erf, exp overflows, NaN": "NaN",
  "gelu: erf, exp overflows, NaN": "NaN",
  "gelu: tanh, exp overflows, NaN": "NaN",
  "rope: backward, 1 rows of 1×2": "the rule is that of the forward direction; this is the gradient itself",
  "rope: backward, 5 rows of 3×14": "as above",
  "rope: backward, 7 rows of 5×34": "as above",
  "rope: backward, 19 rows of 4×64": "as above",
};

const STEP = 1e-5;

type Values = Map<string, Float64Array>;

for (const [name, op] of Object.entries(OPS) as unknown as [OpName, AnyOp][]) {
  if (!op.gradient) continue;
  describe(`the gradient of ${name}`, () => {
    for (const sample of op.samples) {
      if (!sample.dtypes.includes("f64") || `${name}: ${sample.name}` in NOT_DIFFERENTIABLE) continue;
      it(sample.name, () => {
        const seed = `${name} ${sample.name}`;
        checkGradients(op, sample.make(sampleMaker("f64", seed)), seed);
      });
    }
  });
}

it("the list of samples without a gradient names only samples that exist", () => {
  const known = Object.entries(OPS).flatMap(([name, op]) => op.samples.map((sample) => `${name}: ${sample.name}`));
  for (const key of Object.keys(NOT_DIFFERENTIABLE)) expect(known).toContain(key);
});

describe("the gradient inside linearCrossEntropy", () => {
  const op = OPS.linearCrossEntropy;
  for (const sample of op.samples.filter(({ dtypes, name }) => dtypes.includes("f64") && !name.includes("no dx")))
    it(sample.name, () => {
      const args = sample.make(sampleMaker("f64", sample.name));
      op.reference(args);
      const loss = (x: Float64Array) => {
        const moved = { ...args, x: hostTensor("f64", args.x.rows, args.x.cols, x), loss: copy(args.loss), dx: null };
        op.reference(moved);
        return weightedLoss(moved);
      };
      const direction = randomLike(args.x, `${sample.name} direction`);
      expectSlope("x", slope(readMatrix(args.x), direction, loss), readMatrix(args.dx!), direction);
    });
});

/** Σ tokenWeight·loss: what dx is the gradient of. */
function weightedLoss({ loss, tokenWeights }: LinearCrossEntropyArgs): number {
  return inner(readMatrix(loss), readMatrix(tokenWeights));
}

function checkGradients(op: AnyOp, sample: OpArgs, seed: string): void {
  const forward = mapTensors(sample, copy);
  op.reference(forward);
  const cotangents = randomForOutputs(op, sample, seed);
  const gradients = analyticGradients(op, forward, cotangents);
  expect(gradients.size).toBeGreaterThan(0);
  for (const [name, gradient] of gradients) {
    const input = tensorsOf(sample).find((found) => found.name === name)!.tensor;
    const direction = randomLike(input, `${seed} ${name}`);
    const numeric = slope(readMatrix(input), direction, (values) => {
      const moved = mapTensors(sample, (tensor, at) =>
        at === name ? hostTensor(tensor.dtype, tensor.rows, tensor.cols, values) : copy(tensor),
      );
      op.reference(moved);
      return objective(moved, cotangents);
    });
    expectSlope(name, numeric, gradient, direction);
  }
}

/** Σ cotangent·output over the outputs that carry a gradient. NaN: elements that the op does not write. */
function objective(args: OpArgs, cotangents: Values): number {
  let sum = 0;
  for (const { name, tensor } of tensorsOf(args)) {
    const cotangent = cotangents.get(name);
    if (cotangent) sum += inner(readMatrix(tensor), cotangent);
  }
  return sum;
}

/** Outputs whose gradient the rule reads; statistics (rstd, lse, t) have none. */
function randomForOutputs(op: AnyOp, args: OpArgs, seed: string): Values {
  const rule = op.gradient!;
  const wanted =
    rule === "passThrough"
      ? null
      : Object.values(rule.args).flatMap((arg) => (typeof arg === "string" ? [] : [arg.gradientOf]));
  const found = tensorsOf(args).filter(({ key }) => isOutput(op, key) && (wanted?.includes(key) ?? true));
  return new Map(found.map(({ name, tensor }) => [name, randomLike(tensor, `${seed} gradient of ${name}`)]));
}

function analyticGradients(op: AnyOp, forward: OpArgs, cotangents: Values): Values {
  if (op.gradient === "passThrough") {
    const [gradient] = cotangents.values();
    const inputs = tensorsOf(forward).filter(({ key }) => !isOutput(op, key));
    return new Map(inputs.map(({ name }) => [name, gradient!]));
  }
  const rule = op.gradient!;
  const backwardOp = OPS[rule.op as OpName] as unknown as Op<OpArgs>;
  const backward = backwardArgs(op, rule, forward, cotangents);
  const before: Values = new Map(tensorsOf(backward).map(({ name, tensor }) => [name, readMatrix(tensor)]));
  backwardOp.reference(backward);
  const gradients: Values = new Map();
  for (const { name, key, tensor } of tensorsOf(backward)) {
    const source = rule.args[key];
    if (typeof source !== "object" || !isOutput(backwardOp, key)) continue;
    const start = specOf(backwardOp, key).access === "acc" ? before.get(name)! : null;
    const forwardName = name.replace(key, source.gradientOf);
    gradients.set(
      forwardName,
      readMatrix(tensor).map((value, i) => value - (start?.[i] ?? 0)),
    );
  }
  return gradients;
}

/** Attributes as in the forward, tensors as the rule says; gradients to be computed start at random values. */
function backwardArgs(op: AnyOp, rule: GradientRule, forward: OpArgs, cotangents: Values): OpArgs {
  const given = forward as Readonly<Record<string, unknown>>;
  const attributes = Object.entries(given).filter(([key]) => !(key in op.signature));
  const mapped = Object.entries(rule.args).map(([key, source]) => {
    if (typeof source === "string") return [key, given[source]];
    return [key, gradientTensors(given[source.gradientOf], source.gradientOf, cotangents)];
  });
  return { ...Object.fromEntries(attributes), ...Object.fromEntries(mapped), ...rule.attributes };
}

function gradientTensors(like: unknown, name: string, cotangents: Values): unknown {
  if (Array.isArray(like)) return like.map((entry, i) => gradientTensors(entry, `${name}[${i}]`, cotangents));
  if (!isTensor(like)) return null;
  return hostTensor("f64", like.rows, like.cols, cotangents.get(name) ?? randomLike(like, `start of ${name}`));
}

const copy = (tensor: Tensor): Tensor => hostTensor(tensor.dtype, tensor.rows, tensor.cols, readMatrix(tensor));

function randomLike({ rows, cols }: Tensor, seed: string): Float64Array {
  return Float64Array.from({ length: rows * cols }, normals(seed));
}

function slope(at: Float64Array, direction: Float64Array, f: (values: Float64Array) => number): number {
  const moved = (step: number) => f(at.map((value, i) => value + step * direction[i]!));
  return (moved(STEP) - moved(-STEP)) / (2 * STEP);
}

function expectSlope(name: string, numeric: number, gradient: Float64Array, direction: Float64Array): void {
  const analytic = inner(gradient, direction);
  const scale = Math.sqrt(inner(gradient, gradient)) + Math.abs(numeric);
  const error = Math.abs(numeric - analytic);
  if (!(error <= 1e-6 * scale))
    throw new Error(`${name}: slope is ${numeric}, the backward says ${analytic} (gradient of norm ${scale})`);
}

function inner(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, i) => (Number.isNaN(value) ? sum : sum + value * b[i]!), 0);
}
