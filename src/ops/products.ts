// The three dense products of the references, in double precision, on row-major matrices without gaps.

import { type DType, fromBf16, toBf16 } from "../tensor/dtype.ts";

/** A weight as the products see it: rounded to bf16 if that is the compute dtype, else as it is. */
export function asCompute(weight: Float64Array, compute: DType): Float64Array {
  return compute === "bf16" ? weight.map((value) => fromBf16(toBf16(value))) : weight;
}

/** x[N, K] · w[M, K]ᵀ → [N, M] */
export function timesTransposed(x: Float64Array, w: Float64Array, n: number, m: number, k: number): Float64Array {
  const y = new Float64Array(n * m);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let c = 0; c < k; c++) sum += x[i * k + c]! * w[j * k + c]!;
      y[i * m + j] = sum;
    }
  return y;
}

/** x[N, M] · w[M, K] → [N, K] */
export function times(x: Float64Array, w: Float64Array, n: number, m: number, k: number): Float64Array {
  const y = new Float64Array(n * k);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) {
      const factor = x[i * m + j]!;
      for (let c = 0; c < k; c++) y[i * k + c]! += factor * w[j * k + c]!;
    }
  return y;
}

/** x[N, M]ᵀ · y[N, K] → [M, K] */
export function transposedTimes(x: Float64Array, y: Float64Array, n: number, m: number, k: number): Float64Array {
  const z = new Float64Array(m * k);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) {
      const factor = x[i * m + j]!;
      for (let c = 0; c < k; c++) z[j * k + c]! += factor * y[i * k + c]!;
    }
  return z;
}
