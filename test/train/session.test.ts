import { expect, test } from "vitest";
import { OPTIMIZER_STATES } from "../../src/adapter/moments.ts";
import { openBackend } from "../../src/backends/open.ts";
import { RowWindowedAdamW } from "../../src/train/optimizer.ts";
import { estimateSession, TrainingSession } from "../../src/train/session.ts";
import { tinyModel } from "../model/tiny-model.ts";
import { trainConfig } from "./tiny-run.ts";

const shapes = { training: { N: 60, S: 4, Q: 0 }, scoring: { N: 20, S: 2, Q: 0 } };

test.each(["reference", "cpu"] as const)("%s: the estimate is what the run allocates, to the byte", async (name) => {
  await using backend = await openBackend(name, {});
  for (const computeDtype of ["f32", "bf16"] as const)
    for (const state of OPTIMIZER_STATES) {
      const model = tinyModel(backend, computeDtype);
      const before = backend.allocatedBytes;
      const config = trainConfig({}, { optimizer: { ...trainConfig().optimizer, state } });
      const { totalBytes, baseBytes, pagedBytes } = estimateSession(backend, model, config, shapes);
      {
        using session = new TrainingSession(backend, model, config, shapes);
        using _optimizer = new RowWindowedAdamW(backend, session.adapter, config.optimizer);
        expect(backend.allocatedBytes - before).toBe(totalBytes - baseBytes + pagedBytes);
        expect(pagedBytes > 0).toBe(state === "adam32-paged");
      }
      model.dispose();
    }
});

test("a budget moves the plan to recompute; one below the fixed parts is refused with the numbers and leaks nothing", async () => {
  await using backend = await openBackend("reference", {});
  const model = tinyModel(backend, "f32");
  const roomy = estimateSession(backend, model, trainConfig(), shapes);
  const tight = estimateSession(backend, model, trainConfig({}, { memoryBytes: roomy.totalBytes - 1000 }), shapes);
  expect(roomy.plan.levels.every((level) => level === "keep")).toBe(true);
  expect(tight.plan.levels.some((level) => level !== "keep")).toBe(true);
  expect(tight.totalBytes).toBeLessThanOrEqual(roomy.totalBytes - 1000);
  const before = backend.allocatedBytes;
  expect(() => new TrainingSession(backend, model, trainConfig({}, { memoryBytes: 1000 }), shapes)).toThrowError(
    expect.objectContaining({ code: "MEMORY_EXCEEDED" }),
  );
  expect(backend.allocatedBytes).toBe(before);
  model.dispose();
});

test.each(["reference", "cpu"] as const)("%s: activations go nowhere else, and are not asked to", async (name) => {
  await using backend = await openBackend(name, {});
  const model = tinyModel(backend, "f32");
  const planned = (offloadActivations: "auto" | "always", memoryBytes: number | null = null) =>
    estimateSession(backend, model, trainConfig({}, { offloadActivations, memoryBytes }), shapes);
  const tight = planned("auto", planned("auto").totalBytes - 1000);
  expect(tight.offloadedBytes).toBe(0);
  expect(tight.plan.levels.some((level) => level !== "keep")).toBe(true);
  expect(() => planned("always")).toThrowError(
    expect.objectContaining({
      code: "CONFIG_INVALID",
      message: expect.stringContaining("offloadActivations is always, expected auto or never"),
    }),
  );
  model.dispose();
});
