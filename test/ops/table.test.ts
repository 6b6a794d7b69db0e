// What the op table promises about itself.

import { describe, expect, it } from "vitest";
import { OPS } from "../../src/ops/index.ts";
import { type Op, type OpArgs, type TensorSpec, tensorsOf } from "../../src/ops/op.ts";
import { sampleMaker } from "./sampling.ts";

const ops = Object.entries(OPS) as unknown as [string, Op<OpArgs>][];

for (const [name, op] of ops)
  describe(name, () => {
    const calls = op.samples.map((sample) => sample.make(sampleMaker(sample.dtypes.at(-1)!, name)));
    const sizes = calls.flatMap((args) => tensorsOf(args).flatMap(({ tensor }) => [tensor.rows, tensor.cols]));

    it("is filed under its own name", () => {
      expect(op.name).toBe(name);
    });

    it("has samples with a size 1, a prime one, and one that is no multiple of 64", () => {
      expect(sizes).toContain(1);
      expect(sizes.some(isOddPrime)).toBe(true);
      expect(sizes.some((size) => size > 64 && size % 64 !== 0)).toBe(true);
    });

    it("has bad samples, and names without repeats", () => {
      expect(op.badSamples.length).toBeGreaterThan(0);
      for (const list of [op.samples, op.badSamples])
        expect(new Set(list.map((sample) => sample.name)).size).toBe(list.length);
    });

    it("costs something that grows with its tensors", () => {
      const costs = calls.map((args) => op.cost(args));
      for (const { flops, bytes } of costs)
        expect(flops >= 0 && bytes >= 0 && Number.isFinite(flops + bytes)).toBe(true);
      const bytes = costs.map((cost) => cost.bytes);
      expect(Math.max(...bytes)).toBeGreaterThan(Math.min(...bytes));
    });

    const rule = op.gradient;
    if (typeof rule === "object")
      it("has a gradient rule that gives every tensor of its backward", () => {
        const backward = new Map(ops).get(rule.op)!;
        const forwardKeys = Object.keys(calls[0]!);
        for (const source of Object.values(rule.args))
          expect(forwardKeys).toContain(typeof source === "string" ? source : source.gradientOf);
        // Spare room is the plan's to give.
        const needed = Object.entries(backward.signature as Readonly<Record<string, TensorSpec>>);
        const named = needed.filter(([, { access }]) => access !== "spare").map(([key]) => key);
        expect(Object.keys(rule.args)).toEqual(expect.arrayContaining(named));
      });
  });

function isOddPrime(value: number): boolean {
  if (value < 3 || value % 2 === 0) return false;
  for (let d = 3; d * d <= value; d += 2) if (value % d === 0) return false;
  return true;
}
