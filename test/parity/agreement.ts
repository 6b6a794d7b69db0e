// Our forward and backward against transformers + peft + torch in float64 (tools/parity-fixtures.py): the 4-bit values, then
// logits, losses and every adapter gradient of five base formats of a Llama at ranks 1, 4 and 8 of 8. QDYLORA_PRINT=1 prints
// what was measured.

import { describe, expect, test } from "vitest";
import { scaleAt } from "../../src/adapter/config.ts";
import { compareRank, digestsOf } from "./compare.ts";
import { adapterConfig, CASE_NAMES, readCase } from "./fixture.ts";
import { Lab, type Setting } from "./lab.ts";
import { printRow, short } from "./measure.ts";

/** Registers the tests of one backend and dtype. */
export function itAgreesWithTorch(setting: Setting): void {
  const { backend, dtype, limit, reason } = setting;
  describe(`parity on ${backend} in ${dtype}: ‖error‖ ≤ ${limit} (${reason})`, () => {
    for (const name of CASE_NAMES) {
      test(`${name}: the base holds the same values to the bit`, async () => {
        const fixture = await readCase(name);
        await using lab = await Lab.open(fixture, setting);
        const digests = await digestsOf(lab);
        expect(Object.keys(digests)).toHaveLength(2 * 7);
        expect(digests).toEqual(fixture.dequantizedSha256);
      });

      test(`${name}: logits, losses and gradients`, async () => {
        const fixture = await readCase(name);
        await using lab = await Lab.open(fixture, setting);
        for (const { rank, scale } of fixture.ranks) {
          expect(scaleAt(adapterConfig(fixture), rank)).toBeCloseTo(scale, 12);
          const measured = await compareRank(lab, fixture, rank);
          const { relative, worstRow } = measured.gradients;
          printRow([
            ...[`${backend} ${dtype}`, name, rank, short(measured.loss), short(measured.losses)],
            ...[short(measured.logits.relative), short(measured.logits.worstRow)],
            ...[`${short(relative.relative)} ${relative.name}`, `${short(worstRow.worstRow)} ${worstRow.name}`],
          ]);
          expect(measured.gradientCount).toBe(2 * 7 * 2);
          expect(measured.outside).toBe(0);
          expect(measured.loss).toBeLessThanOrEqual(limit);
          expect(measured.losses).toBeLessThanOrEqual(limit);
          expect(measured.logits.worstRow).toBeLessThanOrEqual(limit);
          expect(measured.logitsInPieces.worstRow).toBeLessThanOrEqual(limit);
          expect(relative.relative).toBeLessThanOrEqual(limit);
          expect(worstRow.worstRow).toBeLessThanOrEqual(limit);
        }
      });
    }
  });
}
