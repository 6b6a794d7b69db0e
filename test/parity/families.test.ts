// Every model family against transformers + peft + torch in float64 (tools/parity-fixtures.py), and the table of
// docs/parity.md: QDYLORA_WRITE=1 writes it. On another machine the errors are others, but none may be twice what the table says.

import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { type Comparison, compareRank, digestsOf } from "./compare.ts";
import { FAMILY_CASES, fixtureParameters, readCase } from "./fixture.ts";
import { Lab, SETTINGS } from "./lab.ts";
import { short } from "./measure.ts";

const PAGE = "docs/parity.md";
const [BEGIN, END] = ["<!-- families: written by test/parity/families.test.ts -->", "<!-- families end -->"];
const rows: string[] = [];

/** Gemma normalises what each side adds: torch's own bf16 is at 2.2e-2 (gemma2) and 3.6e-2 (gemma3) on these fixtures. */
const WIDER_IN_BF16: Readonly<Record<string, number>> = { gemma2: 3e-2, gemma3: 3e-2 };

for (const name of FAMILY_CASES)
  describe(name, () => {
    const measured: string[] = [];
    for (const setting of SETTINGS) {
      const { backend, dtype } = setting;
      const limit = dtype === "bf16" && name in WIDER_IN_BF16 ? WIDER_IN_BF16[name]! : setting.limit;
      test(`base, logits, losses and gradients on ${backend} in ${dtype} within ${limit}`, async () => {
        const fixture = await readCase(name);
        await using lab = await Lab.open(fixture, setting);
        const digests = await digestsOf(lab);
        expect(digests).toEqual(fixture.dequantizedSha256);
        expect(Object.keys(digests)).toHaveLength(fixtureParameters(fixture).length / 2);
        const all: Comparison[] = [];
        for (const { rank } of fixture.ranks) {
          const compared = await compareRank(lab, fixture, rank);
          all.push(compared);
          expect(compared.gradientCount).toBe(fixtureParameters(fixture).length);
          expect(compared.outside).toBe(0);
          expect(compared.loss).toBeLessThanOrEqual(limit);
          expect(compared.losses).toBeLessThanOrEqual(limit);
          expect(compared.logits.worstRow).toBeLessThanOrEqual(limit);
          expect(compared.logitsInPieces.worstRow).toBeLessThanOrEqual(limit);
          expect(compared.gradients.relative.relative).toBeLessThanOrEqual(limit);
          // One row of a gradient may be small beside the others.
          expect(compared.gradients.worstRow.worstRow).toBeLessThanOrEqual(2 * limit);
        }
        measured.push(largest(all, ({ logits }) => logits.relative));
        measured.push(largest(all, ({ gradients }) => gradients.relative.relative));
      });
    }

    test("the table of docs/parity.md has its row, and nothing is twice as far off", async () => {
      const { baseFormat, doubleQuant, config } = await readCase(name);
      expect(measured).toHaveLength(2 * SETTINGS.length);
      const base = doubleQuant ? `${baseFormat}, double` : baseFormat;
      const row = [config.architecture, name, base, ...measured];
      rows.push(`| ${row.join(" | ")} |`);
      if (process.env.QDYLORA_WRITE) return;
      const written = tableRows().find((cells) => cells[1] === name);
      expect(written?.slice(0, 3)).toEqual(row.slice(0, 3));
      for (const [i, now] of measured.entries()) expect(Number(now)).toBeLessThanOrEqual(2 * Number(written![3 + i]));
    });
  });

test("the table of docs/parity.md has no other rows", () => {
  if (process.env.QDYLORA_WRITE) return;
  expect(tableRows().map((cells) => cells[1])).toEqual([...FAMILY_CASES]);
});

afterAll(() => {
  if (!process.env.QDYLORA_WRITE) return;
  const settings = SETTINGS.flatMap(({ backend, dtype }) => [`${backend} ${dtype}: logits`, "gradient"]);
  const head = ["architecture", "fixture", "base", ...settings];
  const table = [`| ${head.join(" | ")} |`, `| ${head.map(() => "---").join(" | ")} |`, ...rows];
  const page = readFileSync(PAGE, "utf8");
  const before = page.slice(0, page.indexOf(BEGIN) + BEGIN.length);
  writeFileSync(PAGE, `${before}\n\n${table.join("\n")}\n\n${page.slice(page.indexOf(END))}`);
});

const largest = (all: readonly Comparison[], of: (compared: Comparison) => number): string =>
  short(Math.max(...all.map(of)));

/** Cells of the table's rows, its head left away. */
function tableRows(): string[][] {
  const page = readFileSync(PAGE, "utf8");
  const table = page
    .slice(page.indexOf(BEGIN) + BEGIN.length, page.indexOf(END))
    .trim()
    .split("\n")
    .slice(2);
  return table.map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}
