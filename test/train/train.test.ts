import { describe, expect, test } from "vitest";
import { drawRank, rowWindow } from "../../src/adapter/rank-draw.ts";
import { openBackend } from "../../src/backends/open.ts";
import { checkpointName, listCheckpoints } from "../../src/train/checkpoint.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { EVENT_LOG } from "../../src/train/train.ts";
import { randomBatch } from "../model/tiny-model.ts";
import { MemoryFolder } from "./memory-folder.ts";
import { batchesOf, STEPS, trainConfig, trainTiny } from "./tiny-run.ts";

const stepsIn = (folder: MemoryFolder): number[] =>
  folder
    .text(EVENT_LOG)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as TrainEvent)
    .filter((e) => e.type === "step")
    .map((e) => e.step);

const stopAfterStep = (step: number) => (event: TrainEvent, stop: AbortController) => {
  if (event.type === "step" && event.step + 1 === step) stop.abort();
};

const ofType = <T extends TrainEvent["type"]>(events: readonly TrainEvent[], type: T) =>
  events.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type);

describe("trainAdapter", () => {
  test("the same run twice gives the same bits; the loss of a repeated batch falls", async () => {
    const step = () => batchesOf(0);
    const config = trainConfig({}, { schedule: { kind: "constant", warmupSteps: 0, steps: 20 } });
    const [one, two] = [
      await trainTiny({ folder: new MemoryFolder(), config, step }),
      await trainTiny({ folder: new MemoryFolder(), config, step }),
    ];
    expect(one.after).toEqual(two.after);
    const losses = ofType(one.events, "step").map(({ loss }) => loss);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.3);
    expect(one.result.evaluations.map(({ rank }) => rank)).toEqual([0, 1, 2, 4]);
  });

  test.each(["dylora", "frozen", "fixed"] as const)(
    "%s: a step changes the rows of its window and no other bit",
    async (mode) => {
      for (const seed of [1, 2, 3, 4, 5]) {
        const config = trainConfig({ mode }, { seed, schedule: { kind: "constant", warmupSteps: 0, steps: 1 } });
        const { before, after, events } = await trainTiny({ folder: new MemoryFolder(), config });
        const rank = mode === "fixed" ? 4 : drawRank(config.adapter, seed, 0);
        expect(ofType(events, "step")[0]!.rank).toBe(rank);
        const { from, to } = rowWindow(config.adapter, rank);
        for (const [name, values] of after) {
          const cols = values.length / 4;
          for (let row = 0; row < 4; row++) {
            const same = values
              .slice(row * cols, (row + 1) * cols)
              .every((v, i) => v === before.get(name)![row * cols + i]);
            expect(same, `${name} row ${row} at rank ${rank}`).toBe(row < from || row >= to);
          }
        }
      }
    },
  );

  test.each([1, 2, 3, 5])(
    "stopped after step %i and resumed, it ends with the same bits and each step once in the log",
    async (stopAfter) => {
      const whole = new MemoryFolder();
      const expected = await trainTiny({ folder: whole, config: trainConfig() });
      const folder = new MemoryFolder();
      const first = await trainTiny({
        folder,
        config: trainConfig(),
        onEvent: (event, stop) => {
          if (event.type === "step" && event.step + 1 === stopAfter) stop.abort();
        },
      });
      expect(first.result).toMatchObject({ interrupted: true, step: stopAfter });
      const resumed = await trainTiny({ folder, config: trainConfig(), resume: true });
      expect(resumed.after).toEqual(expected.after);
      expect(stepsIn(folder)).toEqual([0, 1, 2, 3, 4, 5]);
      const name = checkpointName(STEPS);
      const strip = (bytes: Uint8Array) => new TextDecoder("latin1").decode(bytes).replace(/logBytes\\":\d+/, "");
      expect(strip(folder.files.get(name)!).slice(-20000)).toBe(strip(whole.files.get(name)!).slice(-20000));
    },
  );

  test("with 8-bit moments it learns as with f32 ones, keeps a fraction of their bytes, and resumes to the same bits", async () => {
    const coded = trainConfig({}, { optimizer: { ...trainConfig().optimizer, state: "adam8" } });
    const whole = new MemoryFolder();
    const expected = await trainTiny({ folder: whole, config: coded });
    const exact = await trainTiny({ folder: new MemoryFolder(), config: trainConfig() });
    const losses = (run: typeof exact) => ofType(run.events, "step").map(({ loss }) => loss);
    losses(expected).forEach((loss, i) => {
      expect(Math.abs(loss - losses(exact)[i]!)).toBeLessThan(0.02);
    });
    expect(losses(expected)).not.toEqual(losses(exact));
    const folder = new MemoryFolder();
    const stopped = { folder, config: coded, onEvent: stopAfterStep(3) };
    expect((await trainTiny(stopped)).result).toMatchObject({ interrupted: true, step: 3 });
    expect((await trainTiny({ folder, config: coded, resume: true })).after).toEqual(expected.after);
  });

  test.each([0, 0.2])("rows of padding change no bit (dropout %s)", async (dropout) => {
    // Batches of 14 and 11 rows: one is padded to 16, which is all there is room for, the other to 12.
    const padded = async () => Object.assign(await openBackend("reference", {}), { rowGranule: 4 });
    const config = trainConfig({ dropout });
    const [plain, other] = [
      await trainTiny({ folder: new MemoryFolder(), config }),
      await trainTiny({ folder: new MemoryFolder(), config, open: padded }),
    ];
    expect(other.after).toEqual(plain.after);
    expect(ofType(other.events, "step").map(({ tokens }) => tokens)).toEqual(
      ofType(plain.events, "step").map(({ tokens }) => tokens),
    );
  });

  test("paged moments change no bit, and a run may move them when it resumes", async () => {
    const paged = trainConfig({}, { optimizer: { ...trainConfig().optimizer, state: "adam32-paged" } });
    const expected = await trainTiny({ folder: new MemoryFolder(), config: trainConfig() });
    const folder = new MemoryFolder();
    await trainTiny({ folder, config: trainConfig(), onEvent: stopAfterStep(2) });
    expect((await trainTiny({ folder, config: paged, resume: true })).after).toEqual(expected.after);
  });

  test("a crash loses the steps since the last checkpoint, and a resume runs them again", async () => {
    const expected = await trainTiny({ folder: new MemoryFolder(), config: trainConfig() });
    const folder = new MemoryFolder();
    const crash = trainTiny({
      folder,
      config: trainConfig(),
      onEvent: (event) => {
        if (event.type === "step" && event.step === 4) throw new Error("killed");
      },
    });
    await expect(crash).rejects.toThrow("killed");
    expect(stepsIn(folder)).toEqual([0, 1, 2, 3, 4]);
    const resumed = await trainTiny({ folder, config: trainConfig(), resume: true });
    expect(resumed.events[0]).toMatchObject({ type: "start", step: 4, resumed: true });
    expect(stepsIn(folder)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(resumed.after).toEqual(expected.after);
  });

  test("what the device chose by timing is kept in the folder before a checkpoint, and taken over by a resume", async () => {
    const folder = new MemoryFolder();
    const loaded: string[] = [];
    const open = async () => {
      const backend = await openBackend("reference");
      const tuning = { size: 1, save: () => "chosen", load: (text: string) => loaded.push(text) };
      return Object.defineProperty(backend, "tuning", { value: tuning });
    };
    const written = () => new TextDecoder().decode(folder.files.get("tuning.json"));
    const seen: string[] = [];
    await trainTiny({
      folder,
      config: trainConfig(),
      open,
      onEvent: ({ type }, stop) => {
        if (type === "checkpoint") seen.push(written());
        if (type === "checkpoint") stop.abort();
      },
    });
    expect([seen.slice(0, 1), loaded]).toEqual([["chosen"], []]);
    await trainTiny({ folder, config: trainConfig(), open, resume: true });
    expect(loaded).toEqual(["chosen"]);
  });

  test("keeps only the newest checkpoints", async () => {
    const folder = new MemoryFolder();
    await trainTiny({ folder, config: trainConfig() });
    expect(await listCheckpoints(folder)).toEqual([checkpointName(4), checkpointName(6)]);
  });

  test("resuming with other settings or data is refused with the differing keys, unless allowed", async () => {
    const folder = new MemoryFolder();
    await trainTiny({ folder, config: trainConfig() });
    const other = trainConfig({ alpha: 9 }, { evalEvery: 3 });
    const attempt = { folder, config: other, resume: true, dataSha256: "other" };
    await expect(trainTiny(attempt)).rejects.toMatchObject({
      code: "RESUME_MISMATCH",
      details: { keys: ["config.adapter.alpha", "dataSha256"] },
    });
    await expect(trainTiny({ ...attempt, allowChanged: true })).resolves.toMatchObject({ result: { step: STEPS } });
  });

  test("a step without supervised tokens changes nothing and is reported", async () => {
    const silent = { ...randomBatch([5, 9], 3), supervised: 0 };
    silent.targets.fill(-1);
    const config = trainConfig({}, { schedule: { kind: "constant", warmupSteps: 0, steps: 1 } });
    const { before, after, events } = await trainTiny({ folder: new MemoryFolder(), config, step: () => [silent] });
    expect(after).toEqual(before);
    expect(ofType(events, "skipped")).toMatchObject([{ reason: "unsupervised" }]);
  });

  test("steps that are not finite are not applied; after three in a row the run stops and the checkpoint is intact", async () => {
    const folder = new MemoryFolder();
    const config = trainConfig({}, { optimizer: { ...trainConfig().optimizer, learningRate: 1e30, maxGradNorm: 0 } });
    await expect(trainTiny({ folder, config })).rejects.toMatchObject({ code: "LOSS_NONFINITE" });
    const kinds = folder
      .text(EVENT_LOG)
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as TrainEvent).type);
    expect(kinds.filter((kind) => kind === "skipped").length).toBe(3);
    expect((await listCheckpoints(folder)).length).toBeGreaterThan(0);
  });

  test("a full disk stops the run with the earlier checkpoint intact", async () => {
    const folder = new MemoryFolder();
    folder.writesLeft = 1;
    await expect(trainTiny({ folder, config: trainConfig() })).rejects.toMatchObject({ code: "WRITE_FAILED" });
    expect(await listCheckpoints(folder)).toEqual([checkpointName(2)]);
    folder.writesLeft = Number.POSITIVE_INFINITY;
    const resumed = await trainTiny({ folder, config: trainConfig(), resume: true });
    expect(resumed.events[0]).toMatchObject({ type: "start", step: 2 });
  });
});
