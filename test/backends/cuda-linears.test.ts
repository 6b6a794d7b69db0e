// What the cuda backend plans for a group of linears, seen without a GPU.

import { describe, expect, test } from "vitest";
import { forwardWishes, planForward } from "../../src/backends/cuda/adapted-linears.ts";
import { backwardWishes, planBackward } from "../../src/backends/cuda/adapted-linears-backward.ts";
import { coverRows } from "../../src/backends/cuda/adapter-columns.ts";
import { CudaBuffer } from "../../src/backends/cuda/buffer.ts";
import type { CudaDevice } from "../../src/backends/cuda/device.ts";
import { linearKernels } from "../../src/backends/cuda/linears.ts";
import { Room, roomBytes } from "../../src/backends/cuda/room.ts";
import { DECODED_BYTES, partsOf, rowParts, rowsOfWeight } from "../../src/backends/cuda/weight-parts.ts";
import { phantomTensor } from "../../src/model/phantom.ts";
import type { AdaptedLinearsArgs } from "../../src/ops/adapted-linears.ts";
import type { AdaptedLinearsBackwardArgs } from "../../src/ops/adapted-linears-backward.ts";
import { decodeWeight, type FrozenWeight } from "../../src/ops/frozen-weight.ts";
import { sampleWeight } from "../../src/ops/linear-group-samples.ts";
import type { RankRange } from "../../src/ops/rank-range.ts";
import { colSlice, matrix, type Tensor } from "../../src/tensor/tensor.ts";
import { sampleMaker } from "../ops/sampling.ts";

const BUFFER = new CudaBuffer(
  2 ** 40,
  2 ** 40,
  "test",
  () => {},
  () => {},
);
const TOKENS = 2048;
const RANK = 64;

const nf4 = (rows: number, cols: number): FourBitWeight => ({
  ...{ format: "nf4", rows, cols, codes: phantomTensor("u8", 1, (rows * cols) / 2) },
  scales: { kind: "plain", absmax: phantomTensor("f32", 1, (rows * cols) / 64) },
});
type FourBitWeight = Extract<FrozenWeight, { codes: Tensor }>;

/** Column blocks of one matrix. */
function sideBySide(widths: readonly number[]): Tensor[] {
  const whole = phantomTensor(
    "bf16",
    TOKENS,
    widths.reduce((a, b) => a + b),
  );
  let from = 0;
  return widths.map((width) => {
    from += width;
    return colSlice(whole, from - width, from);
  });
}

const atRank = (rank: number): RankRange[] => [{ from: 0, to: TOKENS, rank, scale: 1 }];

function forward(cols: number, outs: readonly number[], tail: boolean, rank = RANK): AdaptedLinearsArgs {
  const [x, xTail] = sideBySide([cols, RANK]);
  return {
    ...{ x: x!, xTail: tail ? xTail! : null, weights: outs.map((out) => nf4(out, cols)), biases: outs.map(() => null) },
    a: outs.map(() => phantomTensor("f32", RANK, cols)),
    b: outs.map((out) => phantomTensor("f32", RANK, out)),
    t: outs.map(() => phantomTensor("bf16", TOKENS, RANK)),
    y: outs.map((out) => phantomTensor("bf16", TOKENS, out)),
    ranges: atRank(rank),
  };
}

function backward(cols: number, outs: readonly number[], tail: boolean, rank = RANK): AdaptedLinearsBackwardArgs {
  const { x, weights, a, b, t, y, ranges } = forward(cols, outs, tail, rank);
  const beside = sideBySide([...outs, outs.length * RANK]);
  return {
    ...{ x, weights, a, b, t, ranges, dx: phantomTensor("bf16", TOKENS, cols) },
    dy: tail ? beside.slice(0, -1) : y,
    dyTail: tail ? beside.at(-1)! : null,
    da: a,
    db: b,
  };
}

describe("linears on cuda", () => {
  test("wish room for every adapter, in whole cache lines, where the first column starts on 16 bytes", () => {
    expect(forwardWishes(forward(4096, [4096, 1024, 1024], false))).toEqual([
      { beside: "x", tail: "xTail", tailColumns: 64 },
    ]);
    expect(backwardWishes(backward(4096, [4096, 1024, 1024], false))).toEqual([
      { beside: "dy", tail: "dyTail", tailColumns: 192 },
    ]);
    expect(forwardWishes(forward(4100, [64], false))).toEqual([]);
    expect(backwardWishes(backward(4096, [64, 100], false))).toEqual([]);
  });

  test("need scratch for one weight and the adapters' narrow products, and for x only where there is no tail", () => {
    const bytes = (tail: boolean) => roomBytes((room) => planForward(forward(4096, [4096, 1024, 1024], tail), room));
    const narrow = 3 * RANK * (2 * 4096 + 4 * TOKENS);
    expect(bytes(true) - 2 * 4096 * (4096 + RANK) - narrow).toBeLessThan(1024);
    expect(bytes(false) - bytes(true)).toBe(2 * TOKENS * (4096 + RANK));
  });

  test("make dX of a group in one product, and the adapters apart without a tail", () => {
    const spans = (args: AdaptedLinearsBackwardArgs) => planBackward(args, new Room(null)).spans;
    expect(spans(backward(4096, [11_008, 11_008], true))).toEqual([{ first: 0, end: 2, adapters: true }]);
    expect(spans(backward(8192, [28_672, 28_672], true))).toEqual([{ first: 0, end: 2, adapters: true }]);
    expect(spans(backward(4096, [1024, 1024], false))).toEqual([
      { first: 0, end: 1, adapters: false },
      { first: 1, end: 2, adapters: false },
      { first: 0, end: 0, adapters: true },
    ]);
    expect(spans(backward(4096, [1024, 1024], true, 0))).toEqual([{ first: 0, end: 2, adapters: false }]);
  });

  test("decode large weights in parts, so that scratch stays bounded and is enough at every rank", () => {
    for (const [cols, outs] of [
      [8192, [32_768]],
      [32_768, [8192]],
      [8192, [28_672, 28_672]],
      [4096, [11_008, 11_008]],
    ] as const) {
      const plans = (rank: number) => {
        const [ahead, back] = [forward(cols, outs, true, rank), backward(cols, outs, true, rank)];
        return [planForward(ahead, new Room(null)), planBackward(back, new Room(null))];
      };
      const bytes = (rank: number) => plans(rank).map(({ weight }) => 2 * weight.rows * weight.stride);
      for (const size of bytes(RANK)) expect(size).toBeLessThanOrEqual(DECODED_BYTES);
      for (const rank of [0, 1, 63])
        for (const [i, size] of bytes(rank).entries()) expect(size).toBeLessThanOrEqual(bytes(RANK)[i]!);
    }
    const { parts } = planForward(forward(8192, [32_768], true), new Room(null));
    expect(parts).toEqual([
      [
        { from: 0, to: 16_384 },
        { from: 16_384, to: 32_768 },
      ],
    ]);
    expect(planForward(forward(4096, [11_008], true), new Room(null)).parts[0]).toHaveLength(1);
  });

  test("part weights where their blocks of scales begin", () => {
    expect(partsOf(1000, 128, 400)).toEqual([
      { from: 0, to: 384 },
      { from: 384, to: 768 },
      { from: 768, to: 1000 },
    ]);
    expect(partsOf(100, 128, 1)).toEqual([{ from: 0, to: 100 }]);
    const weight = sampleWeight(sampleMaker("f32", "parts"), "nf4 double", 768, 192) as FourBitWeight;
    // 192 columns: 256 blocks of 64 end after 85 ⅓ rows, so after 256; tiles of 128 rows fit.
    const parts = rowParts(weight, 1, 300);
    expect(parts.map(({ from }) => from)).toEqual([0, 256, 512]);
    const decoded = parts.flatMap((part) => [...decodeWeight(rowsOfWeight(weight, part))]);
    expect(decoded).toEqual([...decodeWeight(weight)]);
  });

  test("cover every row with ranges, rank 0 where no adapter acts", () => {
    const ranges = [
      { from: 2, to: 4, rank: 3, scale: 1 },
      { from: 4, to: 6, rank: 0, scale: 1 },
      { from: 7, to: 7, rank: 5, scale: 1 },
      { from: 8, to: 9, rank: 1, scale: 2 },
    ];
    expect(coverRows(ranges, 10).map(({ from, to, rank }) => [from, to, rank])).toEqual([
      [0, 2, 0],
      [2, 4, 3],
      [4, 8, 0],
      [8, 9, 1],
      [9, 10, 0],
    ]);
    expect(coverRows([], 3)).toEqual([{ from: 0, to: 3, rank: 0, scale: 0 }]);
  });
});

/** What a decoding step's linears are launched with on a GPU of so much shared memory. */
function decodingLaunches(sharedBytesPerBlock: number, weight: FourBitWeight) {
  const asked: { name: string; defines: Record<string, unknown>; sharedBytes: number; grid: readonly number[] }[] = [];
  const device = {
    ...{ sharedBytesPerBlock, multiprocessors: 132 },
    begin() {},
    function: (_: string, name: string, defines: Record<string, unknown>, sharedBytes = 0) => ({
      ...{ name, defines, sharedBytes },
    }),
    launchEarly: (kernel: Omit<(typeof asked)[number], "grid">, grid: readonly number[]) => {
      asked.push({ ...kernel, grid });
      return () => {};
    },
  } as unknown as CudaDevice;
  const ranges = [{ from: 0, to: 1, rank: 8, scale: 1 }];
  const tensor = (rows: number, cols: number) => matrix(BUFFER, "bf16", rows, cols);
  linearKernels(device).adaptedLinears.run(
    {
      ...{ x: tensor(1, weight.cols), xTail: null, weights: [weight], biases: [null], ranges },
      a: [tensor(RANK, weight.cols)],
      b: [tensor(RANK, weight.rows)],
      t: [tensor(1, RANK)],
      y: [tensor(1, weight.rows)],
    },
    matrix(BUFFER, "u8", 1, 4096),
  );
  const named = (name: string) => asked.find((launch) => launch.name === name)!;
  return { narrow: named("few_rows_narrow"), wide: named("few_rows") };
}

describe("decoding on cuda", () => {
  const doubled = (rows: number, cols: number): FourBitWeight => {
    const part = (dtype: "u8" | "f32", count: number) => matrix(BUFFER, dtype, 1, count);
    const blocks = (rows * cols) / 64;
    const scales = {
      kind: "double",
      codes: part("u8", blocks),
      absmax2: part("f32", Math.ceil(blocks / 256)),
    } as const;
    return {
      ...{ format: "nf4", rows, cols, codes: part("u8", (rows * cols) / 2) },
      scales: { ...scales, map: part("f32", 256), offset: 0 },
    };
  };

  test("takes a launch for t and one for y, whose blocks stay", () => {
    const { narrow, wide } = decodingLaunches(232_448, doubled(22_016, 4096));
    expect(narrow.grid).toEqual([8, 1]);
    expect(wide.grid).toEqual([264]);
    expect(wide.defines).toMatchObject({ STAGES: 4, DOUBLE: 1 });
    expect(decodingLaunches(232_448, doubled(64, 4096)).wide.grid).toEqual([4]);
  });

  test.each([
    [232_448, 11_008, 256, 4],
    [232_448, 28_672, 256, 3],
    [166_912, 4096, 256, 3],
    [101_376, 4096, 132, 4],
    [101_376, 14_336, 132, 4],
  ])("fits %i bytes of shared memory at %i columns", (sharedBytes, cols, blocks, stages) => {
    const { wide } = decodingLaunches(sharedBytes, doubled(4096, cols));
    expect([wide.grid, wide.defines.STAGES]).toEqual([[blocks], stages]);
    expect(wide.sharedBytes).toBeLessThan(sharedBytes);
  });
});
