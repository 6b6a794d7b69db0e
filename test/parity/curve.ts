// Ten steps of our training loop against ten steps of torch.optim.AdamW: the loss and gradient norm of every step, and where
// A and B end. Ranks change from step to step, micro-batches have unequal lengths, clipping is active in some steps.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openFolder } from "../../src/formats/node-files.ts";
import { LossProgram } from "../../src/model/loss-program.ts";
import { planTraining } from "../../src/model/memory-plan.ts";
import type { TrainConfig } from "../../src/train/config.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { summaryOf } from "../../src/train/session.ts";
import { trainAdapter } from "../../src/train/train.ts";
import {
  type CaseName,
  type CurveKind,
  fixtureParameters,
  fixtureTensor,
  type ParityCase,
  rankRows,
  readCase,
} from "./fixture.ts";
import { Lab, largestShape, packed, type Setting } from "./lab.ts";
import { printRow, relativeError, short } from "./measure.ts";

const CURVES: readonly { readonly name: CaseName; readonly kind: CurveKind }[] = [
  { name: "nf4", kind: "nested" },
  { name: "nf4", kind: "dense" },
  { name: "nf4", kind: "frozen" },
  { name: "nf4-double", kind: "nested" },
  { name: "bf16", kind: "nested" },
];

type StepEvent = Extract<TrainEvent, { type: "step" }>;

/** Registers the tests of one backend and dtype. */
export function itFollowsTorch(setting: Setting): void {
  describe(`ten steps on ${setting.backend} in ${setting.dtype}: |loss/torch's − 1| ≤ ${setting.curveLimit}`, () => {
    for (const { name, kind } of CURVES)
      test(`${name}, ${kind}`, async () => {
        const fixture = await readCase(name);
        await using lab = await Lab.open(fixture, setting, kind === "frozen" ? "frozen" : "dylora");
        const steps = await runCurve(lab, fixture, kind);
        const expected = fixture.curves[kind]!;
        const weights = await lab.adapter.weights();
        const measured = {
          loss: Math.max(...expected.map(({ loss }, i) => Math.abs(steps[i]!.loss / loss - 1))),
          norm: Math.max(...expected.map(({ gradNorm }, i) => Math.abs(steps[i]!.gradNorm / gradNorm - 1))),
          weights: Math.max(
            ...fixtureParameters(fixture).map(({ key, name: parameter, side }) =>
              relativeError(
                weights.get(parameter)!,
                rankRows(fixtureTensor(fixture, `curve.${kind}.${key}`), side, fixture.rankMax),
              ),
            ),
          ),
        };
        printRow([
          ...[`${setting.backend} ${setting.dtype}`, name, kind],
          ...[short(measured.loss), short(measured.norm), short(measured.weights)],
        ]);
        expect(steps.map(({ rank }) => rank)).toEqual(expected.map(({ rank }) => rank));
        expect(measured.loss).toBeLessThanOrEqual(setting.curveLimit);
        expect(measured.norm).toBeLessThanOrEqual(setting.limit);
        expect(measured.weights).toBeLessThanOrEqual(setting.weightLimit);
      });
  });
}

async function runCurve(lab: Lab, fixture: ParityCase, kind: CurveKind): Promise<StepEvent[]> {
  const { backend, model, adapter } = lab;
  const batches = fixture.steps.map(({ microBatches }) =>
    microBatches.map((indices) => packed(indices.map((index) => fixture.pool[index]!))),
  );
  const largest = largestShape(batches.flat());
  const config: TrainConfig = {
    adapter: adapter.config,
    optimizer: { ...fixture.optimizer, dense: kind === "dense" },
    schedule: { kind: "constant", warmupSteps: 0, steps: batches.length },
    batch: { seq: largest.N, microBatch: 2, accumulation: 3, packing: true },
    seed: fixture.curveSeed,
    evalEvery: 0,
    initialAdapterSha256: null,
    checkpointEvery: 0,
    keepCheckpoints: 1,
    offloadActivations: "never",
    memoryBytes: null,
  };
  const path = await mkdtemp(join(tmpdir(), "qdylora-parity-"));
  try {
    const plan = planTraining(backend, model, adapter, largest, { budgetBytes: null });
    using learner = new LossProgram(backend, model, plan.list, plan.arena, largest, "learning arena");
    using scorer = LossProgram.scorer(backend, model, adapter, largest);
    const steps: StepEvent[] = [];
    await trainAdapter({
      backend,
      adapter,
      config,
      learner,
      plan: summaryOf({ arenaBytes: plan.arena.bytes, offloadedBytes: 0, optimizerState: "adam32", plan }),
      scorer,
      step: (index) => batches[index]!,
      heldOut: [],
      folder: await openFolder(path, { write: true }),
      fingerprint: {},
      resume: false,
      allowChanged: false,
      signal: new AbortController().signal,
      onEvent: (event) => {
        if (event.type === "step") steps.push(event);
      },
    });
    return steps;
  } finally {
    await rm(path, { recursive: true, force: true });
  }
}
