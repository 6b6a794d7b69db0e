// What the quickstart claims, and the control that shows it to be the data's doing: the same run on the same words and
// answers, but each word with another one's answer, may gain only what there is to gain from the answers' form.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { permutation, randomStream } from "../../src/random/philox.ts";
import type { Report, ReportRank } from "../../src/report/report.ts";
import { bundledBase, bundledData } from "../../src/verbs/bundled.ts";
import { evaluate } from "../../src/verbs/evaluate.ts";
import { QUICKSTART_PRESET, type QuickstartResult } from "../../src/verbs/quickstart.ts";
import { train } from "../../src/verbs/train.ts";
import { qdylora } from "../cli/tiny-project.ts";

const DRAWN = [1, 2, 4, 8, 16, 32];
/** An undrawn rank may lose so much to the worse of its drawn neighbours, nats a token. */
const INTERPOLATION_LOSS = 0.02;
const TRUE_OVER_CONTROL = 3;

const folder = mkdtempSync(join(tmpdir(), "qdylora-quickstart-"));
let result: QuickstartResult;
let report: Report;

beforeAll(async () => {
  const { code, out, err } = await qdylora(["quickstart", "--output", join(folder, "run"), "--json"]);
  expect(code, err).toBe(0);
  expect(err).toContain("npx qdylora generate");
  result = JSON.parse(out) as QuickstartResult;
  report = JSON.parse(readFileSync(join(folder, "run/report.json"), "utf8")) as Report;
}, 600_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const at = (rank: number): ReportRank => report.ranks.find((row) => row.rank === rank)!;

describe("quickstart", () => {
  test("says what it promises as JSON", () => {
    expect(result).toEqual({
      seconds: expect.any(Number),
      base: { loss: at(0).loss.value, metric: at(0).metric!.value },
      ranks: DRAWN.map((rank) => ({
        rank,
        loss: at(rank).loss.value,
        metric: at(rank).metric!.value,
        adapterBytes: rank * result.ranks[0]!.adapterBytes,
      })),
      metricName: "error-rate",
      higherIsBetter: false,
      adapter: join(folder, "run"),
      report: join(folder, "run/report.html"),
    });
    expect(report.heldOut.samples).toBeGreaterThanOrEqual(500);
  });

  test("beats the base at every rank from 2, with intervals that do not overlap", () => {
    for (const rank of DRAWN.filter((rank) => rank >= 2)) {
      expect(at(rank).loss.high, `loss at rank ${rank}`).toBeLessThan(at(0).loss.low);
      expect(at(rank).metric!.high, `metric at rank ${rank}`).toBeLessThan(at(0).metric!.low);
    }
  });

  test("every rank that was not drawn is as good as its neighbours", async () => {
    const ranks = Array.from({ length: 32 }, (_, i) => i + 1);
    const all = await evaluate({ adapter: join(folder, "run"), data: bundledData().heldOut, ranks });
    const loss = new Map(all.ranks.map((row) => [row.rank, row.loss.value]));
    for (const rank of ranks.filter((rank) => !DRAWN.includes(rank))) {
      const below = Math.max(...DRAWN.filter((drawn) => drawn < rank));
      const above = Math.min(...DRAWN.filter((drawn) => drawn > rank));
      expect(loss.get(rank), `rank ${rank}`).toBeLessThanOrEqual(
        Math.max(loss.get(below)!, loss.get(above)!) + INTERPOLATION_LOSS,
      );
    }
  }, 300_000);

  test("a control with shuffled answers gains less than a third of that at every rank from 4", async () => {
    const rows = readFileSync(bundledData().train, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { prompt: string; completion: string });
    const order = permutation(randomStream(7, "control"), rows.length);
    const shuffled = rows.map(({ prompt }, i) => JSON.stringify({ prompt, completion: rows[order[i]!]!.completion }));
    writeFileSync(join(folder, "shuffled.jsonl"), `${shuffled.join("\n")}\n`);
    const control = await train({
      ...QUICKSTART_PRESET,
      model: bundledBase(),
      data: join(folder, "shuffled.jsonl"),
      heldOut: bundledData().heldOut,
      output: join(folder, "control"),
      metric: "error-rate",
    });
    const base = at(0);
    for (const { rank, loss, metric } of control.report!.ranks.filter((row) => row.rank >= 4)) {
      const gain = { loss: base.loss.value - at(rank).loss.value, metric: base.metric!.value - at(rank).metric!.value };
      const idle = { loss: base.loss.value - loss.value, metric: base.metric!.value - metric!.value };
      expect(gain.loss, `loss at rank ${rank}`).toBeGreaterThanOrEqual(TRUE_OVER_CONTROL * idle.loss);
      expect(gain.metric, `metric at rank ${rank}`).toBeGreaterThanOrEqual(TRUE_OVER_CONTROL * idle.metric);
    }
  }, 600_000);
});
