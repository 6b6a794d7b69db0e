// Activations that wait in the host's memory: the same bits, less memory of the device, and no copy that is used too early.

import { describe, expect, test } from "vitest";
import type { DeviceRates, Kernel, KernelTable } from "../../src/backends/backend.ts";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { planAt } from "../../src/model/memory-plan.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import type { KeepLevel } from "../../src/model/steps.ts";
import { blockWeights } from "../../src/model/useful-flops.ts";
import { OPS } from "../../src/ops/index.ts";
import type { StartCopiesArgs } from "../../src/ops/start-copies.ts";
import { writeMatrix } from "../../src/tensor/host.ts";
import { learn } from "./learn.ts";
import { adapterConfig, randomAdapter, randomBatch, TINY_JSON, tinyModel } from "./tiny-model.ts";

const DEEP = parseModelConfig({ ...TINY_JSON, num_hidden_layers: 5 });
const BATCHES = [randomBatch([5, 1, 3]), randomBatch([4], 2)];

/** The reference, with copies as late as they may be: what is read before it is awaited is NaN, what is written over is lost. */
class LateCopies extends ReferenceBackend {
  override readonly kernels: KernelTable;
  override readonly rates: DeviceRates | null = null;
  readonly begun = new Map<number, StartCopiesArgs>();
  copied = 0;
  /** The most groups that were on their way at once. */
  most = 0;

  /** @param rowBytesPerLayer what the bus carries; null: all that there is */
  constructor(rowBytesPerLayer: number | null) {
    super();
    const seconds = (2 * blockWeights(DEEP)) / DEEP.layers;
    if (rowBytesPerLayer !== null)
      this.rates = { flopsPerSecond: 1, busBytesPerSecond: rowBytesPerLayer / 0.9 / seconds };
    const startCopies: Kernel<"startCopies"> = {
      run: (args) => {
        if (this.begun.has(args.group)) throw new Error(`group ${args.group} is on its way`);
        this.begun.set(args.group, args);
        this.most = Math.max(this.most, this.begun.size);
        for (const y of args.ys) writeMatrix(y, new Float64Array(y.rows * y.cols).fill(Number.NaN));
      },
    };
    const awaitCopies: Kernel<"awaitCopies"> = {
      run: ({ group, held }) => {
        const { xs, ys } = this.begun.get(group)!;
        const touched = new Set([...xs, ...ys].map(({ buffer, offset }) => `${buffer.label} ${offset}`));
        expect(new Set(held.map(({ buffer, offset }) => `${buffer.label} ${offset}`))).toEqual(touched);
        OPS.startCopies.reference({ xs, ys, group });
        this.begun.delete(group);
        this.copied += xs.length;
      },
    };
    this.kernels = { ...new ReferenceBackend().kernels, startCopies, awaitCopies };
  }
}

async function learnAt(levels: readonly KeepLevel[], rowBytesPerLayer: number | null = null) {
  const backend = new LateCopies(rowBytesPerLayer);
  const model = tinyModel(backend, "f32", DEEP);
  const adapter = randomAdapter(backend, model, adapterConfig());
  try {
    const learned = await learn({ backend, model, adapter, levels, rank: 5, batches: BATCHES });
    expect(backend.begun.size).toBe(0);
    return { ...learned, copied: backend.copied, most: backend.most };
  } finally {
    adapter[Symbol.dispose]();
    model.dispose();
    await backend[Symbol.asyncDispose]();
  }
}

const all = (level: KeepLevel): KeepLevel[] => Array(5).fill(level);

describe("offloaded activations", () => {
  const kept = learnAt(all("keep"));

  test.each<{ levels: KeepLevel[] }>([
    { levels: all("offload") },
    { levels: all("offload-input") },
    { levels: ["offload-input", "offload", "offload-input", "recompute-layer", "keep"] },
    { levels: ["offload-input", "offload-input", "offload", "recompute-layer", "recompute-cheap"] },
    { levels: ["keep", "recompute-cheap", "keep", "keep", "offload"] },
  ])("give the same bits as kept ones: $levels", async ({ levels }) => {
    const offloaded = await learnAt(levels);
    expect(offloaded.copied).toBeGreaterThan(0);
    const { loss, gradients, copied } = await kept;
    expect(copied).toBe(0);
    expect([offloaded.loss, offloaded.gradients]).toEqual([loss, gradients]);
  });

  test("are awaited later on a slower bus, at once on one that cannot keep up, to the same bits", async () => {
    const levels: KeepLevel[] = ["offload", "offload-input", "offload", "recompute-layer", "keep"];
    const [fast, slow, slowest] = [await learnAt(levels), await learnAt(levels, 900), await learnAt(levels, 60)];
    expect([fast.most, slow.most, slowest.most]).toEqual([1, 2, 1]);
    for (const other of [slow, slowest]) expect([other.loss, other.gradients]).toEqual([fast.loss, fast.gradients]);
  });

  test("take the device's memory only while they are computed, copied or read", async () => {
    const backend = new ReferenceBackend();
    const model = tinyModel(backend, "f32", DEEP);
    const adapter = randomAdapter(backend, model, adapterConfig());
    const shape = { N: 21, S: 3, Q: 0 };
    const arena = (level: KeepLevel) => planAt(backend, model, adapter, shape, all(level)).arena;
    expect(arena("offload").bytes).toBeLessThan(0.7 * arena("recompute-cheap").bytes);
    expect(arena("offload-input").bytes).toBeLessThan(arena("recompute-layer").bytes);
    // One input a layer: f32 [21, 40], on whole 64 bytes.
    expect(arena("offload-input").hostBytes).toBe(5 * Math.ceil((21 * 40 * 4) / 64) * 64);
    expect(arena("recompute-layer").hostBytes).toBe(0);
    adapter[Symbol.dispose]();
    model.dispose();
  });
});
