// What the plan chooses for models of true size on a GPU: seen without one.

import { describe, expect, test } from "vitest";
import { phantomAdapter } from "../../src/adapter/phantom-adapter.ts";
import type { DeviceRates } from "../../src/backends/backend.ts";
import { countLevels, type OffloadChoice, planAt } from "../../src/model/memory-plan.ts";
import { namedShape, type ShapeName } from "../../src/model/named-shapes.ts";
import type { KeepLevel } from "../../src/model/steps.ts";
import { phantomBase } from "../../src/quant/estimate-base.ts";
import { estimateSession } from "../../src/train/session.ts";
import { resolveTrainConfig, type TrainSettings } from "../../src/verbs/train-options.ts";
import { planningGpu } from "../backends/planning-gpu.ts";

const GIB = 2 ** 30;
/** A GPU with more memory than any of these runs takes: --memory decides. */
const H100 = planningGpu(80e9);

const baseOf = (shape: ShapeName) => phantomBase({ config: namedShape(shape), format: "nf4", computeDtype: "bf16" });

function plan(shape: ShapeName, batch: number, settings: TrainSettings & { gib?: number }, gpu = H100) {
  const { gib, ...rest } = settings;
  const model = baseOf(shape);
  const config = resolveTrainConfig(
    { rankMax: 64, batch, seq: 512, ...rest, ...(gib === undefined ? {} : { memory: gib * GIB }) },
    model.config,
    1,
  );
  const estimate = estimateSession(gpu, model, config, {
    training: { N: batch * 512, S: batch, Q: 0 },
    scoring: { N: 1, S: 1, Q: 0 },
  });
  const peakBytes = estimate.totalBytes + gpu.memory().overheadBytes;
  return { ...estimate, peakBytes, counts: countLevels(estimate.plan.levels) };
}

const again = (counts: Record<KeepLevel, number>): number => counts["recompute-layer"] + counts["offload-input"];

describe("a budget", () => {
  const at = (offloadActivations: OffloadChoice, gib?: number, gpu = H100) =>
    plan("llama-7b", 16, { optimizerState: "adam8", offloadActivations, ...(gib === undefined ? {} : { gib }) }, gpu);

  test("that holds everything keeps everything, on the device", () => {
    expect(at("auto").counts).toMatchObject({ keep: 32 });
    expect(at("auto").offloadedBytes).toBe(0);
  });

  test.each([16, 11])("of %i GiB is met with fewer layers computed again where a bus helps", (gib) => {
    const [never, auto] = [at("never", gib), at("auto", gib)];
    for (const { peakBytes } of [never, auto]) expect(peakBytes).toBeLessThanOrEqual(gib * GIB);
    expect(never.offloadedBytes).toBe(0);
    expect(auto.counts.offload).toBeGreaterThan(0);
    expect(auto.counts["recompute-cheap"]).toBeGreaterThan(0);
    expect(again(auto.counts)).toBeLessThan(again(never.counts));
  });

  test("below what recomputing all needs is met with every layer's input in the host's memory", () => {
    expect(() => at("never", 8)).toThrowError(expect.objectContaining({ code: "MEMORY_EXCEEDED" }));
    const { peakBytes, counts } = at("auto", 8);
    expect(peakBytes).toBeLessThanOrEqual(8 * GIB);
    expect(counts["offload-input"]).toBeGreaterThan(25);
  });

  test("is met by computing again where the bus is too slow for it, and by the bus where nothing else fits", () => {
    const slow = planningGpu(80e9, { ...H100.rates!, busBytesPerSecond: 1e9 } satisfies DeviceRates);
    expect(at("auto", 16, slow).plan.levels).toEqual(at("never", 16, slow).plan.levels);
    expect(at("auto", 8, slow).offloadedBytes).toBeGreaterThan(0);
  });

  test("`always` leaves no input but the last on the device, whatever there is", () => {
    const { counts, arenaBytes } = at("always");
    expect(counts).toEqual({ keep: 0, "recompute-cheap": 0, offload: 0, "recompute-layer": 1, "offload-input": 31 });
    expect(arenaBytes).toBeLessThan(at("auto", 8).arenaBytes + 1);
  });

  test("of the host's memory is kept to, and refused with the numbers", () => {
    const gpu = planningGpu(80e9);
    const poor = { ...gpu, memory: () => ({ ...gpu.memory(), hostBytes: GIB }) };
    expect(at("auto", 16, poor).offloadedBytes).toBeLessThanOrEqual(GIB);
    expect(() => at("always", 16, poor)).toThrowError(
      expect.objectContaining({
        code: "MEMORY_EXCEEDED",
        message: expect.stringMatching(
          /needs \d+ bytes of the host's memory for its activations, expected at most 1073741824/,
        ),
        hint: expect.stringContaining("--offload-activations auto"),
      }),
    );
  });
});

describe("models that must fit", () => {
  for (const optimizerState of ["adam8", "adam32-paged"] as const) {
    test.each([1, 4])(`falcon-40b, %i×512 in 30 GiB with ${optimizerState}`, (batch) => {
      expect(plan("falcon-40b", batch, { optimizerState, gib: 30 }).peakBytes).toBeLessThanOrEqual(30 * GIB);
    });
    test(`llama2-70b, 1×512 in 44 GiB with ${optimizerState}`, () => {
      expect(plan("llama2-70b", 1, { optimizerState, gib: 44 }).peakBytes).toBeLessThanOrEqual(44 * GIB);
    });
  }
});

describe("a layer that is computed again", () => {
  const linearCalls = (shape: ShapeName, level: KeepLevel): number => {
    const model = baseOf(shape);
    const { adapter } = resolveTrainConfig({}, model.config, 1);
    const levels = Array<KeepLevel>(model.config.layers).fill(level);
    const rows = { N: 512, S: 1, Q: 0 };
    const { list } = planAt(H100, model, phantomAdapter(model, adapter, "f32"), rows, levels);
    return list.calls.filter(({ op }) => op === "adaptedLinears").length / model.config.layers;
  };

  test("runs no linear again whose output nobody reads", () => {
    // q/k/v, o, gate/up and down; down's output goes into the residual stream only.
    expect([linearCalls("llama-7b", "keep"), linearCalls("llama-7b", "recompute-layer")]).toEqual([4, 7]);
    // Attention and feed-forward in parallel: neither dense's nor dense_4h_to_h's output is read.
    expect([linearCalls("falcon-40b", "keep"), linearCalls("falcon-40b", "recompute-layer")]).toEqual([4, 6]);
  });
});
