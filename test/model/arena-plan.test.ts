// A backend that wishes tensors side by side: the plan grants it, and nothing else changes.

import { describe, expect, test } from "vitest";
import type { Kernel, KernelTable, Wish } from "../../src/backends/backend.ts";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { LossProgram, uniformRange } from "../../src/model/loss-program.ts";
import { planAt } from "../../src/model/memory-plan.ts";
import type { DropoutSettings, KeepLevel } from "../../src/model/steps.ts";
import type { ArgsOf, OpName } from "../../src/ops/index.ts";
import { writeMatrix } from "../../src/tensor/host.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { adapterConfig, randomAdapter, randomBatch, tinyModel } from "./tiny-model.ts";

const BATCH = randomBatch([13, 1, 7]);
const SHAPE = { N: BATCH.tokens.length, S: 3, Q: 0 };
const TAIL = 8;

/** The reference, with wishes for its linears; fills every tail that it gets with NaN, and counts them. */
class WishingBackend extends ReferenceBackend {
  override readonly kernels: KernelTable;
  readonly tails: Record<string, number> = { granted: 0, refused: 0 };

  constructor(tailColumns: number) {
    super();
    const plain = new ReferenceBackend().kernels;
    const wishing = <K extends OpName>(name: K, tail: keyof ArgsOf<K> & string, beside: string): Kernel<K> => ({
      run: (args) => {
        this.#spoil((args as Record<string, Tensor | null>)[tail] ?? null);
        (plain[name] as Kernel<K>).run(args, null);
      },
      wishes: (): readonly Wish[] => [{ beside, tail, tailColumns }],
    });
    this.kernels = {
      ...plain,
      adaptedLinears: wishing("adaptedLinears", "xTail", "x"),
      adaptedLinearsBackward: wishing("adaptedLinearsBackward", "dyTail", "dy"),
    };
  }

  #spoil(tail: Tensor | null): void {
    this.tails[tail ? "granted" : "refused"]!++;
    if (tail) writeMatrix(tail, new Float64Array(tail.rows * tail.cols).fill(Number.NaN));
  }
}

async function learn(backend: ReferenceBackend, levels: readonly KeepLevel[], dropout: DropoutSettings | null = null) {
  const model = tinyModel(backend, "f32");
  const adapter = randomAdapter(backend, model, adapterConfig());
  try {
    using program = LossProgram.learner(backend, model, adapter, SHAPE, levels, dropout);
    const losses = await program.run(BATCH, uniformRange(BATCH, 5, 0.5), 1 / BATCH.supervised);
    const { arena } = planAt(backend, model, adapter, SHAPE, levels, dropout);
    return { losses, gradients: await adapter.download(adapter.gradients!), bytes: arena.bytes };
  } finally {
    adapter[Symbol.dispose]();
    model.dispose();
  }
}

describe("values that a kernel wishes side by side", () => {
  test.each([
    ["keep", "keep"],
    ["recompute-cheap", "recompute-layer"],
  ] as const)("get their spare columns in every linear, and the same bits (%s, %s)", async (...levels) => {
    const wishing = new WishingBackend(TAIL);
    const [plain, beside] = [await learn(new ReferenceBackend(), levels), await learn(wishing, levels)];
    expect(beside.losses).toEqual(plain.losses);
    expect(beside.gradients).toEqual(plain.gradients);
    // Four groups of linears a layer, forward and backward at least.
    expect(wishing.tails.granted).toBeGreaterThanOrEqual(16);
    expect(wishing.tails.refused).toBe(0);
  });

  test("cost nothing but the spare columns", async () => {
    const levels = ["keep", "keep"] as const;
    const plain = await learn(new ReferenceBackend(), levels);
    expect((await learn(new WishingBackend(0), levels)).bytes).toBeLessThanOrEqual(plain.bytes);
    // x of four groups a layer, and [∂gate | ∂up] in the place of gate and up, are kept; other tails come and go.
    const tail = Math.ceil((SHAPE.N * TAIL * 4) / 64) * 64;
    expect((await learn(new WishingBackend(TAIL), levels)).bytes - plain.bytes).toBeLessThanOrEqual(14 * tail);
  });

  test("that two kernels want in unlike company: the first wish wins, the other is refused", async () => {
    const dropout = { p: 0.25, seed: 1 };
    const wishing = new WishingBackend(TAIL);
    const plain = await learn(new ReferenceBackend(), ["keep", "recompute-layer"], dropout);
    const beside = await learn(wishing, ["keep", "recompute-layer"], dropout);
    expect(beside.gradients).toEqual(plain.gradients);
    expect(wishing.tails.refused).toBeGreaterThan(0);
  });
});
