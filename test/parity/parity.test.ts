// Our forward and backward against transformers + peft + torch in float64 (tools/parity-fixtures.py): the 4-bit values, then
// logits, losses and every adapter gradient of five base formats at ranks 1, 4 and 8 of 8. QDYLORA_PRINT=1 prints what was
// measured.

import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { scaleAt } from "../../src/adapter/config.ts";
import type { FrozenWeight } from "../../src/ops/frozen-weight.ts";
import { matrix } from "../../src/tensor/tensor.ts";
import { adapterConfig, CASE_NAMES, fixtureParameters, fixtureTensor, LINEARS, rankRows, readCase } from "./fixture.ts";
import { Lab, packed, SETTINGS } from "./lab.ts";
import { printRow, relativeError, short, tensorError, worstOf } from "./measure.ts";

for (const setting of SETTINGS) {
  const { backend, dtype, limit, reason } = setting;
  describe(`parity on ${backend} in ${dtype}: ‖error‖ ≤ ${limit} (${reason})`, () => {
    for (const name of CASE_NAMES) {
      test(`${name}: the base holds the same values to the bit`, async () => {
        const fixture = await readCase(name);
        await using lab = await Lab.open(fixture, setting);
        const digests: Record<string, string> = {};
        for (const [layer, { linears }] of lab.model.layers.entries())
          for (const [name, module] of LINEARS)
            digests[`model.layers.${layer}.${module}.weight`] = await digestOf(lab, linears[name]!.weight);
        expect(Object.keys(digests)).toHaveLength(2 * 7);
        expect(digests).toEqual(fixture.dequantizedSha256);
      });

      test(`${name}: logits, losses and gradients`, async () => {
        const fixture = await readCase(name);
        await using lab = await Lab.open(fixture, setting);
        for (const { rank, scale, loss } of fixture.ranks) {
          expect(scaleAt(adapterConfig(fixture), rank)).toBeCloseTo(scale, 12);
          const expected = (key: string): Float32Array => fixtureTensor(fixture, `rank${rank}.${key}`);
          const step = await lab.step([packed(fixture.sequences)], rank);
          const logits = await lab.logits(fixture.sequences, rank, 1);
          const tensors = fixtureParameters(lab.model.config.layers).map(({ key, name: parameter, side }) =>
            tensorError(parameter, step.gradients.get(parameter)!, rankRows(expected(`grad.${key}`), side, rank), rank),
          );
          const measured = {
            loss: Math.abs(step.loss - loss) / loss,
            losses: relativeError(step.losses, expected("losses")),
            logits: tensorError("logits", logits, expected("logits"), step.losses.length),
            gradients: worstOf(tensors),
          };
          const { relative, worstRow } = measured.gradients;
          printRow([
            ...[`${backend} ${dtype}`, name, rank, short(measured.loss), short(measured.losses)],
            ...[short(measured.logits.relative), short(measured.logits.worstRow)],
            ...[`${short(relative.relative)} ${relative.name}`, `${short(worstRow.worstRow)} ${worstRow.name}`],
          ]);
          expect(tensors).toHaveLength(2 * 7 * 2);
          expect(step.outside).toBe(0);
          expect(measured.loss).toBeLessThanOrEqual(limit);
          expect(measured.losses).toBeLessThanOrEqual(limit);
          expect(measured.logits.relative).toBeLessThanOrEqual(limit);
          expect(measured.logits.worstRow).toBeLessThanOrEqual(limit);
          expect(measured.gradients.relative.relative).toBeLessThanOrEqual(limit);
          expect(measured.gradients.worstRow.worstRow).toBeLessThanOrEqual(limit);
        }
      });
    }
  });
}

/** SHA-256 of a frozen weight's f32 values, by the backend's own op. */
async function digestOf({ backend }: Lab, weight: FrozenWeight): Promise<string> {
  const { rows, cols } = weight;
  const buffer = backend.alloc(rows * cols * 4, "dequantised weight");
  try {
    backend.run("dequantize", { weight, y: matrix(buffer, "f32", rows, cols) });
    const bytes = await backend.read(buffer, 0, rows * cols * 4);
    return createHash("sha256").update(bytes).digest("hex");
  } finally {
    buffer.dispose();
  }
}
