// Seeded host tensors for the ops' samples: the same name gives the same numbers on every machine.

import type { SampleMaker } from "../../src/ops/op.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { hostTensor } from "../../src/tensor/host.ts";

/** Uniform numbers in [0, 1) from a name (FNV-1a into mulberry32). */
export function seededStream(name: string): () => number {
  let state = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) state = Math.imul(state ^ byte, 0x01000193);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers (Box–Muller). */
export function normals(name: string): () => number {
  const uniform = seededStream(name);
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

const list = (length: number, next: () => number) => Float64Array.from({ length }, next);

export function sampleMaker(dtype: DType, seed: string): SampleMaker {
  const uniform = seededStream(`${seed} integers`);
  const normal = normals(seed);
  return {
    dtype,
    normal: (as, rows, cols, deviation = 1) =>
      hostTensor(
        as,
        rows,
        cols,
        list(rows * cols, () => deviation * normal()),
      ),
    integers: (as, rows, cols, from, to) =>
      hostTensor(
        as,
        rows,
        cols,
        list(rows * cols, () => from + Math.floor(uniform() * (to - from))),
      ),
    values: (as, rows, cols, values) => {
      if (values.length !== rows * cols) throw new Error(`${values.length} values for ${rows}×${cols}`);
      return hostTensor(as, rows, cols, values);
    },
    output: (access, as, rows, cols) => {
      if (access === "acc") return hostTensor(as, rows, cols, list(rows * cols, normal));
      const poison = as === "u8" ? 0x7f : as === "i32" ? 0x7f7f7f7f : Number.NaN;
      return hostTensor(as, rows, cols, new Float64Array(rows * cols).fill(poison));
    },
  };
}
