// Which kernels serve an attention call on CUDA, and the memory they ask for: what of it needs no GPU.

import { describe, expect, it } from "vitest";
import { attentionKernels } from "../../src/backends/cuda/attention.ts";
import { CudaBuffer } from "../../src/backends/cuda/buffer.ts";
import type { CudaDevice } from "../../src/backends/cuda/device.ts";
import { matrix } from "../../src/tensor/tensor.ts";

const HOPPER = { arch: 90, sharedBytesPerBlock: 232_448 };
const BLACKWELL = { arch: 120, sharedBytesPerBlock: 101_376 };
const buffer = new CudaBuffer(
  1 << 20,
  2 ** 40,
  "test",
  () => {},
  () => {},
);

interface Asked {
  readonly name: string;
  readonly defines: Record<string, string | number>;
  readonly sharedBytes: number;
  readonly grid: readonly number[];
}

/** A device that notes what is launched instead of launching it. */
function device({ arch, sharedBytesPerBlock }: typeof HOPPER) {
  const asked: Asked[] = [];
  const driver = { checked: { tensorMapEncodeTiled: () => 0 } };
  const launch = (kernel: Omit<Asked, "grid">, grid: readonly number[]) => {
    asked.push({ ...kernel, grid });
    return () => {};
  };
  const fake = {
    ...{ arch, sharedBytesPerBlock, driver, multiprocessors: 132, l2Bytes: 50 << 20 },
    begin() {},
    function: (_: string, name: string, defines: Asked["defines"], sharedBytes = 0) => ({ name, defines, sharedBytes }),
    launch,
    launchEarly: launch,
  };
  return { kernels: attentionKernels(fake as unknown as CudaDevice), asked };
}

interface Shape {
  rows: number;
  heads: number;
  groups: number;
  headDim: number;
  scale?: number;
  offset?: number;
  stride?: number;
}

function call({ rows, heads, groups, headDim, scale = 1, offset = 0, stride }: Shape) {
  const wide = () => matrix(buffer, "bf16", rows, heads * headDim, offset, stride);
  const narrow = () => matrix(buffer, "bf16", rows, groups * headDim);
  return {
    ...{ q: wide(), k: narrow(), v: narrow(), o: wide(), dO: wide(), dq: wide(), dk: narrow(), dv: narrow() },
    lse: matrix(buffer, "f32", rows, heads),
    starts: matrix(buffer, "i32", 2, 1),
    ...{ headDim, scale, window: null, softCap: null },
  };
}

function pathOf(gpu: typeof HOPPER, shape: Partial<Shape>): string | number | undefined {
  const { kernels, asked } = device(gpu);
  kernels.attention.run(call({ rows: 40, heads: 4, groups: 2, headDim: 64, ...shape }), null);
  return asked[0]?.defines.PATH;
}

describe("the path of a call", () => {
  it("is that of the GPU's generation for bf16 heads of whole 16-byte pieces", () => {
    expect(pathOf(HOPPER, {})).toBe("HOPPER");
    expect(pathOf(HOPPER, { headDim: 72 })).toBe("HOPPER");
    expect(pathOf(BLACKWELL, {})).toBe("MMA");
  });

  it("is the simple one where rows are not aligned, heads too wide or odd, or the scale would turn the order of scores", () => {
    for (const shape of [{ headDim: 7 }, { headDim: 264 }, { scale: -1 }, { scale: 0 }, { offset: 2 }, { stride: 257 }])
      expect(pathOf(HOPPER, shape), JSON.stringify(shape)).toBe("SIMPLE");
  });

  it("takes a single row of any stride, as no other row has to be found", () => {
    expect(pathOf(HOPPER, { rows: 1, stride: 257 })).toBe("HOPPER");
  });
});

describe("the memory of a call", () => {
  it("fits the shared memory of a block at every head dim", () => {
    for (const gpu of [HOPPER, BLACKWELL])
      for (const headDim of [8, 64, 80, 96, 104, 128, 136, 192, 256]) {
        const { kernels, asked } = device(gpu);
        const args = call({ rows: 300, heads: 4, groups: 2, headDim });
        const bytes = kernels.attentionBackward.scratchBytes!(args);
        kernels.attention.run(args, null);
        kernels.attentionBackward.run(args, matrix(buffer, "u8", 1, bytes, 64));
        expect(asked.length).toBeGreaterThanOrEqual(4);
        for (const { name, sharedBytes } of asked)
          expect(sharedBytes, `${name} at ${headDim}`).toBeLessThan(gpu.sharedBytesPerBlock);
      }
  });

  it("splits the heads of a group where its keys alone would leave multiprocessors idle", () => {
    const scratch = (groups: number) =>
      device(HOPPER).kernels.attentionBackward.scratchBytes!(call({ rows: 2048, heads: 64, groups, headDim: 64 }));
    const statistics = scratch(64);
    expect(statistics).toBeLessThan(2 * 64 * 2048 * 4 + 1024);
    // One group: 16 blocks of keys, wanted twice the 132 multiprocessors, so 17 parts of at most 4 heads: 16.
    expect(scratch(1) - statistics).toBe(16 * 2 * 2048 * 64 * 4);
  });
});
