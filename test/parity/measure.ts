// How far a result is from the expected one: normalised, per tensor and per row, so that a small row cannot hide behind a
// large one. A value that is not finite is an infinite error.

export interface TensorError {
  readonly name: string;
  /** ‖got − expected‖ / ‖expected‖ */
  readonly relative: number;
  /** The largest of the same over the rows. */
  readonly worstRow: number;
}

/** ‖got − expected‖ / ‖expected‖ over from..to−1. */
export function relativeError(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  from = 0,
  to = expected.length,
): number {
  let difference = 0;
  let size = 0;
  for (let i = from; i < to; i++) {
    const d = got[i]! - expected[i]!;
    difference += d * d;
    size += expected[i]! ** 2;
  }
  if (!Number.isFinite(difference)) return Number.POSITIVE_INFINITY;
  if (size === 0) return difference === 0 ? 0 : Number.POSITIVE_INFINITY;
  return Math.sqrt(difference / size);
}

/** Errors of a row-major matrix of `rows` rows. */
export function tensorError(
  name: string,
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  rows: number,
): TensorError {
  if (got.length !== expected.length) throw new Error(`${name}: ${got.length} values, expected ${expected.length}`);
  const cols = expected.length / rows;
  let worstRow = 0;
  for (let row = 0; row < rows; row++)
    worstRow = Math.max(worstRow, relativeError(got, expected, row * cols, (row + 1) * cols));
  return { name, relative: relativeError(got, expected), worstRow };
}

/** The largest errors of a group, and the tensors that have them. */
export function worstOf(errors: readonly TensorError[]): { relative: TensorError; worstRow: TensorError } {
  if (errors.length === 0) throw new Error("nothing was measured");
  return {
    relative: errors.reduce((worst, error) => (error.relative > worst.relative ? error : worst)),
    worstRow: errors.reduce((worst, error) => (error.worstRow > worst.worstRow ? error : worst)),
  };
}

/** A row of the tables in docs/parity.md, on request. */
export function printRow(cells: readonly (string | number)[]): void {
  if (process.env.QDYLORA_PRINT) console.log(`| ${cells.join(" | ")} |`);
}

/** 3.8e-7 */
export const short = (value: number): string => value.toExponential(1);
