// The code-books of the 4-bit formats and of the 8-bit scales, bit for bit those of bitsandbytes: tables, and which code
// a value gets. The values are data with a history (a normal distribution's quantiles computed once), not a formula.

const f32 = Math.fround;

/** NF4 as f32 bits, ascending: 7 negative levels, zero, 8 positive (arXiv 2305.14314, appendix E, as bitsandbytes stores it). */
const NF4_BITS = [
  0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000, 0x3da2faff,
  0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000,
];

export const NF4: Float32Array = new Float32Array(Uint32Array.from(NF4_BITS).buffer);

/** FP4 of bitsandbytes: code = sign bit, then these magnitudes in twelfths. Code 8 is −0. */
const FP4_TWELFTHS = [0, 0.0625, 8, 12, 4, 6, 2, 3];

export const FP4: Float32Array = Float32Array.from([
  ...FP4_TWELFTHS.map((value) => value / 12),
  ...FP4_TWELFTHS.map((value) => -value / 12),
]);

export type FourBitFormat = "nf4" | "fp4";

export const CODE_BOOKS: Readonly<Record<FourBitFormat, Float32Array>> = { nf4: NF4, fp4: FP4 };

/** midpoints[i]: the f32 value half-way between levels i and i+1 of an ascending table. */
export function midpoints(table: Float32Array): Float32Array {
  return Float32Array.from({ length: table.length - 1 }, (_, i) => f32(f32(table[i]! + table[i + 1]!) / 2));
}

/** The 15 thresholds of NF4. */
export const NF4_MIDPOINTS: Float32Array = midpoints(NF4);

/** Number of thresholds below `x`: the nearest level of an ascending table; a tie goes to the lower one. */
export function nearestLevel(thresholds: Float32Array, x: number): number {
  let low = 0;
  let high = thresholds.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x > thresholds[middle]!) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * FP4's thresholds on |x| and the code above each. The decimals are those of bitsandbytes (csrc/kernels.cu,
 * dQuantizeFP4), where 0.583333 is not quite 7/12: kept, since files must not depend on who wrote them.
 */
export const FP4_THRESHOLDS = Float32Array.of(
  0.00260417,
  0.0859375,
  0.20833333,
  0.29166667,
  0.4166667,
  0.583333,
  0.8333333,
);
export const FP4_CODES = [0, 1, 6, 7, 4, 5, 2, 3];

/** 4-bit code of `x` = w/absmax in −1..1 (f32). A tie goes to the lower level (nf4), to the smaller magnitude (fp4). */
export function fourBitCode(format: FourBitFormat, x: number): number {
  if (format === "nf4") return nearestLevel(NF4_MIDPOINTS, x);
  return (x < 0 ? 8 : 0) + FP4_CODES[nearestLevel(FP4_THRESHOLDS, Math.abs(x))]!;
}

/**
 * The signed "dynamic" map of 256 values that block scales and first moments are coded with: for e = 0..6, the 2^e
 * midpoints between 2^e + 1 equal steps from 0.1 to 1, times ±10^(e−6); then 0 and 1. Ascending; entry 127 is 0. f32
 * arithmetic throughout, as in bitsandbytes' create_dynamic_map. Checkpoints store the map: a reader uses theirs.
 */
export function dynamicMap(): Float32Array {
  return Float32Array.from([...dynamicMagnitudes(1), ...dynamicMagnitudes(1).map((value) => -value), 0, 1]).sort();
}

/** The unsigned map, for second moments: twice the magnitudes per decade in place of the signs. Entry 0 is 0. */
export function unsignedDynamicMap(): Float32Array {
  return Float32Array.from([...dynamicMagnitudes(2), 0, 1]).sort();
}

/** For e = 0..6: the density·2^e midpoints between equal steps from 0.1 to 1, times 10^(e−6). */
function dynamicMagnitudes(density: 1 | 2): number[] {
  return Array.from({ length: 7 }, (_, e) => e).flatMap((e) => {
    const bounds = linspace(f32(0.1), 1, density * 2 ** e + 1);
    const factor = f32(10 ** (e - 6));
    return Array.from({ length: density * 2 ** e }, (_, i) => f32(factor * f32(f32(bounds[i]! + bounds[i + 1]!) / 2)));
  });
}

/**
 * Equal steps in f32, the upper half counted down from the end, so that both ends are exact. Product and sum are rounded
 * together, once, as torch.linspace does it (a fused multiply–add): rounding twice changes 42 of the 256 values.
 */
function linspace(start: number, end: number, count: number): Float32Array {
  const step = f32(f32(end - start) / (count - 1));
  return Float32Array.from({ length: count }, (_, i) =>
    i < count / 2 ? f32(start + step * i) : f32(end - step * (count - 1 - i)),
  );
}
