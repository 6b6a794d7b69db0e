// Against numpy: fixtures by tools/svd-fixtures.py.

import { expect, test } from "vitest";
import { svdOfProduct } from "../../src/adapter/svd.ts";
import { openFile } from "../../src/formats/node-files.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";

const file = await openSafetensors(await openFile("test/fixtures/svd.safetensors"));

async function values(name: string): Promise<Float64Array> {
  const tensor = file.tensor(name);
  const bytes = (await tensor.read()).slice();
  return tensor.dtype === "F64" ? new Float64Array(bytes.buffer) : Float64Array.from(new Float32Array(bytes.buffer));
}

/** Σ over the first `rank` of σ_i · left_iᵀ · right_i. */
function product({ sigma, left, right }: ReturnType<typeof svdOfProduct>, rank: number): Float64Array {
  const [M, K] = [left.length / sigma.length, right.length / sigma.length];
  const out = new Float64Array(M * K);
  for (let i = 0; i < rank; i++)
    for (let m = 0; m < M; m++)
      for (let k = 0; k < K; k++) out[m * K + k]! += sigma[i]! * left[i * M + m]! * right[i * K + k]!;
  return out;
}

const NAMES = file.names.filter((name) => name.endsWith(".sigma")).map((name) => name.replace(".sigma", ""));

test("there are cases", () => expect(NAMES.length).toBe(7));

test.each(NAMES)("%s: singular values and best approximations are numpy's", async (name) => {
  const [a, b, sigma] = [await values(`${name}.a`), await values(`${name}.b`), await values(`${name}.sigma`)];
  const found = svdOfProduct(a, b, sigma.length);
  const largest = Math.max(sigma[0]!, 1e-300);
  // Small values are found to their own precision; numpy's error is relative to the largest.
  for (const [i, want] of sigma.entries()) expect(Math.abs(found.sigma[i]! - want)).toBeLessThan(1e-12 * largest);
  for (const best of file.names.filter((entry) => entry.startsWith(`${name}.best.`))) {
    const want = await values(best);
    const got = product(found, Number(best.split(".").at(-1)));
    for (const [i, value] of want.entries()) expect(Math.abs(got[i]! - value)).toBeLessThan(1e-11 * largest);
  }
});

test.each(NAMES)("%s: vectors are orthonormal, or zero where the singular value is", async (name) => {
  const rank = file.tensor(`${name}.sigma`).shape[0]!;
  const found = svdOfProduct(await values(`${name}.a`), await values(`${name}.b`), rank);
  for (const rows of [found.left, found.right]) {
    const n = rows.length / rank;
    for (let i = 0; i < rank; i++)
      for (let j = 0; j <= i; j++) {
        let dot = 0;
        for (let k = 0; k < n; k++) dot += rows[i * n + k]! * rows[j * n + k]!;
        // A direction whose σ is rounding error is no direction.
        if (Math.min(found.sigma[i]!, found.sigma[j]!) > 1e-12 * found.sigma[0]!)
          expect(Math.abs(dot - (i === j ? 1 : 0))).toBeLessThan(1e-10);
      }
  }
});
