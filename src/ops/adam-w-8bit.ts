// AdamW with both moments in 8 bits (arXiv 2110.02861): a moment is stored as codes of a dynamic map, one absmax per block of
// 256 columns of a row, so that a window of rows is a window of blocks. Per row: m = mMap[code]·absmax, v likewise; then the
// update of adam-w.ts in full precision; then both are coded again: absmax = max over the block, code = entry of the map
// nearest to value·(1/max(absmax, 10⁻³⁸)), a tie to the lower entry (as quantizeScales). m uses the signed map; v, which is
// never negative, the unsigned one. The weights move by the unrounded moments of this step. With squares not finite: nothing changes.

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../tensor/host.ts";
import { rowSlice, type Tensor } from "../tensor/tensor.ts";
import { type AdamWSettings, adamWRow, checkAdamW, clipFactor, SETTINGS_SAMPLE } from "./adam-w-rule.ts";
import { dynamicMap, midpoints, nearestLevel, unsignedDynamicMap } from "./code-books.ts";
import { broken, type Op, type SampleMaker } from "./op.ts";
import { blockAbsmax, reciprocal } from "./quantize-4bit.ts";

/** Columns of a row that share an absmax. */
export const MOMENT_BLOCK = 256;

export const momentBlocks = (cols: number): number => Math.ceil(cols / MOMENT_BLOCK);

export interface AdamW8bitArgs extends AdamWSettings {
  /** f32 [R, C_i] */
  readonly params: readonly Tensor[];
  /** f32 [R, C_i] */
  readonly gradients: readonly Tensor[];
  /** u8 [R, C_i] */
  readonly mCodes: readonly Tensor[];
  /** f32 [R, ceil(C_i/256)] */
  readonly mAbsmax: readonly Tensor[];
  /** u8 [R, C_i] */
  readonly vCodes: readonly Tensor[];
  /** f32 [R, ceil(C_i/256)] */
  readonly vAbsmax: readonly Tensor[];
  /** bf16 [R, C_i] or null */
  readonly copies: readonly (Tensor | null)[];
  /** f32 [1, 256], ascending: the signed map */
  readonly mMap: Tensor;
  /** f32 [1, 256], ascending: the unsigned map */
  readonly vMap: Tensor;
  /** i32 [R, 1]: updates of each row, this one included */
  readonly steps: Tensor;
  /** f32 [1, 1]: Σ gradient² over the window's rows of all tensors */
  readonly squares: Tensor;
}

export const adamW8bit: Op<AdamW8bitArgs> = {
  name: "adamW8bit",
  signature: {
    params: { access: "acc", dims: ["R", "C"], dtypes: ["f32"], list: { varying: ["C"] } },
    gradients: { access: "in", dims: ["R", "C"], dtypes: ["f32"], list: { varying: ["C"] } },
    mCodes: { access: "acc", dims: ["R", "C"], dtypes: ["u8"], list: { varying: ["C"] } },
    mAbsmax: { access: "acc", dims: ["R", "P"], dtypes: ["f32"], list: { varying: ["P"] } },
    vCodes: { access: "acc", dims: ["R", "C"], dtypes: ["u8"], list: { varying: ["C"] } },
    vAbsmax: { access: "acc", dims: ["R", "P"], dtypes: ["f32"], list: { varying: ["P"] } },
    copies: { access: "acc", dims: ["R", "C"], dtypes: ["bf16"], optional: true, list: { varying: ["C"] } },
    mMap: { access: "in", dims: ["1", "*"], dtypes: ["f32"] },
    vMap: { access: "in", dims: ["1", "*"], dtypes: ["f32"] },
    steps: { access: "in", dims: ["R", "1"], dtypes: ["i32"] },
    squares: { access: "in", dims: ["1", "1"], dtypes: ["f32"] },
  },
  validate({
    params,
    gradients,
    mCodes,
    mAbsmax,
    vCodes,
    vAbsmax,
    copies,
    mMap,
    vMap,
    steps,
    squares: _,
    ...settings
  }) {
    const lists = { gradients, mCodes, mAbsmax, vCodes, vAbsmax, copies };
    checkAdamW(adamW8bit, settings, steps.rows, params.length, lists);
    for (const [name, map] of Object.entries({ mMap, vMap }))
      if (map.cols !== 256) throw broken(adamW8bit, `${name}.cols`, "256", map.cols);
    for (const [i, { cols }] of params.entries())
      if (mAbsmax[i]!.cols !== momentBlocks(cols))
        throw broken(adamW8bit, `mAbsmax[${i}].cols`, `${momentBlocks(cols)} blocks of columns`, mAbsmax[i]!.cols);
  },
  reference(args) {
    const scale = clipFactor(readMatrix(args.squares)[0]!, args.maxNorm);
    if (Number.isNaN(scale)) return;
    const steps = readMatrix(args.steps);
    for (const [i, param] of args.params.entries())
      for (let row = args.from; row < args.to; row++) {
        const rowOf = (tensor: Tensor) => rowSlice(tensor, row, row + 1);
        const moment = { codes: rowOf(args.mCodes[i]!), absmax: rowOf(args.mAbsmax[i]!), map: args.mMap };
        const square = { codes: rowOf(args.vCodes[i]!), absmax: rowOf(args.vAbsmax[i]!), map: args.vMap };
        const [p, g] = [readMatrix(rowOf(param)), readMatrix(rowOf(args.gradients[i]!))];
        const [m, v] = [decoded(moment), decoded(square)];
        adamWRow({ p, g, m, v }, scale, steps[row]!, args.learningRates[i]!, args);
        writeMatrix(rowOf(param), p);
        encode(m, moment);
        encode(v, square);
        const copy = args.copies[i];
        if (copy) writeMatrix(rowOf(copy), p);
      }
  },
  samples: [
    { name: "one of everything", dtypes: ["f32"], make: (m) => sampleCall(m, 1, [1], 0, 1) },
    { name: "blocks that do not divide the columns", dtypes: ["f32"], make: (m) => sampleCall(m, 5, [257], 0, 5) },
    { name: "a window", dtypes: ["f32"], make: (m) => sampleCall(m, 11, [129], 3, 8) },
    { name: "an empty window", dtypes: ["f32"], make: (m) => sampleCall(m, 5, [67], 2, 2) },
    { name: "tensors of many widths", dtypes: ["f32"], make: (m) => sampleCall(m, 9, [64, 1, 1000, 256], 2, 7) },
    { name: "no copy", dtypes: ["f32"], make: (m) => ({ ...sampleCall(m, 8, [512], 0, 4), copies: [null] }) },
    {
      name: "a norm that is NaN",
      dtypes: ["f32"],
      make: (m) => ({ ...sampleCall(m, 4, [30], 0, 4), squares: m.values("f32", 1, 1, [Number.NaN]) }),
    },
    { name: "the first step", dtypes: ["f32"], make: (m) => firstStep(sampleCall(m, 3, [300], 0, 3), m) },
  ],
  badSamples: [
    { name: "a window past the end", make: (m) => ({ ...sampleCall(m, 3, [4], 0, 3), to: 4 }) },
    { name: "a short map", make: (m) => ({ ...sampleCall(m, 3, [4], 0, 3), vMap: m.normal("f32", 1, 255) }) },
    {
      name: "a block too many",
      make: (m) => ({ ...sampleCall(m, 3, [4], 0, 3), mAbsmax: [m.output("acc", "f32", 3, 2)] }),
    },
    { name: "codes too few", make: (m) => ({ ...sampleCall(m, 3, [4], 0, 3), vCodes: [] }) },
    { name: "epsilon 0", make: (m) => ({ ...sampleCall(m, 3, [4], 0, 3), epsilon: 0 }) },
  ],
  tolerance: {
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some ten f32 roundings per element" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "the copy is one rounding of the new weight, at most 2⁻⁹ of it" },
    u8: { normalised: 1e-2, worst: 2e-2, reason: "a value near a threshold may get the neighbouring code" },
  },
  cost({ params, copies, from, to }) {
    const bytesPerValue = (param: Tensor, i: number) => 3 * BYTES_PER_ELEMENT[param.dtype] + 4 + (copies[i] ? 2 : 0);
    return {
      flops: params.reduce((sum, { cols }) => sum + 40 * (to - from) * cols, 0),
      bytes: params.reduce(
        (sum, param, i) => sum + (to - from) * param.cols * bytesPerValue(param, i),
        4 * (to - from),
      ),
    };
  },
};

interface CodedRow {
  readonly codes: Tensor;
  readonly absmax: Tensor;
  readonly map: Tensor;
}

function decoded({ codes, absmax, map }: CodedRow): Float64Array {
  const [levels, scales] = [readMatrix(map), readMatrix(absmax)];
  return readMatrix(codes).map((code, c) => Math.fround(levels[code]! * scales[Math.floor(c / MOMENT_BLOCK)]!));
}

function encode(values: Float64Array, { codes, absmax, map }: CodedRow): void {
  const rounded = values.map(Math.fround);
  const largest = blockAbsmax(rounded, MOMENT_BLOCK);
  const thresholds = midpoints(Float32Array.from(readMatrix(map)));
  const codeOf = (value: number, c: number) =>
    nearestLevel(thresholds, Math.fround(value * reciprocal(largest[Math.floor(c / MOMENT_BLOCK)]!)));
  writeMatrix(absmax, largest);
  writeMatrix(codes, rounded.map(codeOf));
}

function sampleCall(m: SampleMaker, rows: number, widths: readonly number[], from: number, to: number): AdamW8bitArgs {
  const codes = (cols: number) => m.integers("u8", rows, cols, 0, 256);
  const absmax = (cols: number) => m.values("f32", rows, momentBlocks(cols), scales(rows * momentBlocks(cols)));
  return {
    params: widths.map((cols) => m.output("acc", "f32", rows, cols)),
    gradients: widths.map((cols) => m.normal("f32", rows, cols)),
    mCodes: widths.map(codes),
    mAbsmax: widths.map(absmax),
    vCodes: widths.map(codes),
    vAbsmax: widths.map(absmax),
    copies: widths.map((cols) => m.output("acc", "bf16", rows, cols)),
    mMap: m.values("f32", 1, 256, dynamicMap()),
    vMap: m.values("f32", 1, 256, unsignedDynamicMap()),
    steps: m.values(
      "i32",
      rows,
      1,
      Float64Array.from({ length: rows }, (_, row) => (row % 3 === 0 ? 1 : 40 * row)),
    ),
    squares: m.values("f32", 1, 1, [4]),
    from,
    to,
    learningRates: widths.map((_, i) => 0.01 * (i + 1)),
    ...SETTINGS_SAMPLE,
  };
}

const scales = (count: number): Float64Array => Float64Array.from({ length: count }, (_, i) => 0.1 + 0.01 * (i % 7));

/** Moments as allocated: all bytes zero, which is zero in both maps once absmax is zero. */
function firstStep(args: AdamW8bitArgs, m: SampleMaker): AdamW8bitArgs {
  const zero = (tensors: readonly Tensor[]) =>
    tensors.map(({ dtype, rows, cols }) => m.values(dtype, rows, cols, new Float64Array(rows * cols)));
  const { mCodes, mAbsmax, vCodes, vAbsmax } = args;
  return { ...args, mCodes: zero(mCodes), mAbsmax: zero(mAbsmax), vCodes: zero(vCodes), vAbsmax: zero(vAbsmax) };
}
