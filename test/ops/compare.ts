// How far a result is from the oracle: normalised error and worst element, with NaN and infinities by position.

import type { Tolerance } from "../../src/ops/op.ts";

export interface Difference {
  readonly normalised: number;
  readonly worst: number;
  /** Index of the worst element. */
  readonly at: number;
}

/** Throws with numbers if `got` is further from `want` than `tolerance`; "exact" wants the same values, signs of zero included. */
export function expectClose(
  where: string,
  got: Float64Array,
  want: Float64Array,
  tolerance: Tolerance | "exact",
): void {
  if (got.length !== want.length) throw new Error(`${where}: ${got.length} elements, expected ${want.length}`);
  if (tolerance === "exact") {
    const at = want.findIndex((value, i) => !Object.is(value, got[i]));
    if (at >= 0) throw new Error(`${where}[${at}] is ${got[at]}, expected exactly ${want[at]}`);
    return;
  }
  expectSameSpecials(where, got, want);
  const { normalised, worst, at } = difference(got, want);
  const numbers = `normalised error ${normalised.toExponential(2)} (limit ${tolerance.normalised}), worst element ${worst.toExponential(2)} (limit ${tolerance.worst})`;
  if (!(normalised <= tolerance.normalised && worst <= tolerance.worst))
    throw new Error(`${where}: ${numbers}: [${at}] is ${got[at]}, expected ${want[at]} (${tolerance.reason})`);
}

/** NaN and ±∞ must be at the same places. An element that should not have been written is NaN in both. */
function expectSameSpecials(where: string, got: Float64Array, want: Float64Array): void {
  const at = want.findIndex((value, i) => {
    if (Number.isFinite(value) && Number.isFinite(got[i]!)) return false;
    return !Object.is(value, got[i]);
  });
  if (at >= 0) throw new Error(`${where}[${at}] is ${got[at]}, expected ${want[at]}`);
}

export function difference(got: Float64Array, want: Float64Array): Difference {
  let errors = 0;
  let squares = 0;
  let count = 0;
  let worst = 0;
  let at = 0;
  for (let i = 0; i < want.length; i++) {
    const value = want[i]!;
    if (!Number.isFinite(value)) continue;
    const error = Math.abs(got[i]! - value);
    errors += error * error;
    squares += value * value;
    count++;
    if (error > worst) [worst, at] = [error, i];
  }
  // A zero result has no scale: then any error is infinite, and none is none.
  const relative = (error: number, size: number) => (error === 0 ? 0 : error / size);
  return {
    normalised: relative(Math.sqrt(errors), Math.sqrt(squares)),
    worst: relative(worst, Math.sqrt(squares / count)),
    at,
  };
}
