// Bandwidth of the cuda backend's memory-bound kernels beside a copy of as many bytes in the same run.
// node bench/run.mjs bench/cuda-kernels.ts: one JSON line per kernel.

import type { CudaBackend } from "../src/backends/cuda/cuda.ts";
import { openCuda } from "../src/backends/cuda/cuda.ts";
import { momentBlocks } from "../src/ops/adam-w-8bit.ts";
import { SETTINGS_SAMPLE } from "../src/ops/adam-w-rule.ts";
import { type ArgsOf, OPS, type OpName } from "../src/ops/index.ts";
import { type Op, type OpArgs, tensorsOf } from "../src/ops/op.ts";
import { BYTES_PER_ELEMENT, type DType } from "../src/tensor/dtype.ts";
import { matrix, type Tensor } from "../src/tensor/tensor.ts";

const TOKENS = 8192;
const HIDDEN = 4096;
const FEED_FORWARD = 11_008;
const SECONDS = 0.2;
const RANK = 64;
/** Widths of the A and Bᵀ of eight layers of a 7B model. */
const LAYER = Array.from({ length: 8 }, () => [
  ...Array.from({ length: 11 }, () => HIDDEN),
  ...[FEED_FORWARD, FEED_FORWARD, FEED_FORWARD],
]).flat();

const backend = await openCuda();
await measureAll(backend);
await backend[Symbol.asyncDispose]();

async function measureAll(device: CudaBackend): Promise<void> {
  const make = maker(device);
  const bf16 = (rows: number, cols: number) => make.tensor("bf16", rows, cols);
  const f32 = (rows: number, cols: number) => make.tensor("f32", rows, cols);
  const i32 = (rows: number, cols: number) => make.integers(rows, cols);
  const wide = () => bf16(TOKENS, HIDDEN);
  const glu = (cols: number) => ({
    ...{ gate: bf16(TOKENS, cols), up: bf16(TOKENS, cols), y: bf16(TOKENS, cols) },
    activation: "silu" as const,
  });
  const layer = () => LAYER.map((cols) => f32(RANK, cols));
  const codes = () => LAYER.map((cols) => make.tensor("u8", RANK, cols));
  const scales = () => LAYER.map((cols) => f32(RANK, momentBlocks(cols)));
  const adapter = () => ({
    ...{ params: layer(), gradients: layer(), steps: i32(RANK, 1), squares: f32(1, 1), from: 0, to: RANK },
    learningRates: LAYER.map(() => 1e-4),
    ...SETTINGS_SAMPLE,
  });
  const rows = [
    ["fill", () => ({ y: wide(), value: 1 })],
    ["cast", () => ({ x: f32(TOKENS, HIDDEN), y: wide() })],
    ["add", () => ({ a: wide(), b: wide(), y: wide() })],
    ["sumSquares", () => ({ xs: [f32(TOKENS, HIDDEN)], sum: f32(1, 1) })],
    ["embed", () => ({ table: bf16(32_000, HIDDEN), tokens: i32(TOKENS, 1), y: wide(), scale: 1 })],
    [
      "dropout",
      () => ({ x: wide(), rows: i32(TOKENS, 2), y: wide(), p: 0.1, seed: 1, stream: "layers.0.q_proj", step: 1 }),
    ],
    ["rmsNorm", () => ({ x: wide(), weight: bf16(1, HIDDEN), y: wide(), rstd: f32(TOKENS, 1), eps: 1e-5 })],
    ["rmsNormBackward", () => ({ x: wide(), weight: bf16(1, HIDDEN), rstd: f32(TOKENS, 1), dy: wide(), dx: wide() })],
    ["rope", () => ({ x: wide(), cosSin: f32(TOKENS, 128), y: wide(), headDim: 128, direction: "forward" as const })],
    ["glu", () => glu(HIDDEN)],
    ["glu", () => glu(FEED_FORWARD)],
    [
      "gluBackward",
      () => {
        const { gate, up, y, activation } = glu(FEED_FORWARD);
        return { gate, up, dy: y, dGate: gate, dUp: up, activation };
      },
    ],
    ["kvAppend", () => ({ x: wide(), rows: i32(TOKENS, 1), cache: wide() })],
    [
      "layerNorm",
      () => ({
        ...{ x: wide(), weight: bf16(1, HIDDEN), bias: bf16(1, HIDDEN), y: wide() },
        ...{ mean: f32(TOKENS, 1), rstd: f32(TOKENS, 1), eps: 1e-5 },
      }),
    ],
    [
      "layerNormBackward",
      () => ({
        ...{ x: wide(), weight: bf16(1, HIDDEN), mean: f32(TOKENS, 1), rstd: f32(TOKENS, 1), dy: wide(), dx: wide() },
      }),
    ],
    ["rmsNorm", () => ({ x: wide(), weight: bf16(1, 128), y: wide(), rstd: f32(TOKENS, HIDDEN / 128), eps: 1e-5 })],
    ["adamW", () => ({ ...adapter(), ms: layer(), vs: layer(), copies: LAYER.map((cols) => bf16(RANK, cols)) })],
    [
      "adamW8bit",
      () => ({
        ...{ ...adapter(), mCodes: codes(), mAbsmax: scales(), vCodes: codes(), vAbsmax: scales() },
        ...{ copies: LAYER.map((cols) => bf16(RANK, cols)), mMap: f32(1, 256), vMap: f32(1, 256) },
      }),
    ],
  ] satisfies { [K in OpName]: [K, () => ArgsOf<K>] }[OpName][];
  for (const [op, args] of rows) {
    await measure(device, op, args() as OpArgs);
    make.release();
  }
}

async function measure(device: CudaBackend, name: OpName, args: OpArgs): Promise<void> {
  const op = OPS[name] as unknown as Op<OpArgs>;
  const scratchBytes = device.scratchBytes(name, args as never);
  const scratchBuffer = device.alloc(Math.max(1, scratchBytes), "scratch");
  const { bytes } = op.cost(args);
  const step = device.prepare(name, args as never, matrix(scratchBuffer, "u8", 1, Math.max(1, scratchBytes)));
  const half = Math.floor(bytes / 2);
  const [from, to] = [device.alloc(half, "copy from"), device.alloc(half, "copy to")];
  const copy = () => device.device.driver.checked.memcpyOnDevice(to.address, from.address, half, device.device.stream);
  const seconds = timed(device, step);
  const copySeconds = timed(device, copy);
  for (const buffer of [scratchBuffer, from, to]) buffer.dispose();
  const largest = tensorsOf(args).reduce((a, b) =>
    b.tensor.rows * b.tensor.cols > a.tensor.rows * a.tensor.cols ? b : a,
  );
  const { rows, cols, dtype } = largest.tensor;
  const gbPerSecond = bytes / seconds / 1e9;
  const copyGbPerSecond = (2 * half) / copySeconds / 1e9;
  const line = {
    ...{ op: name, shape: `${rows}x${cols} ${dtype}`, microseconds: round(1e6 * seconds) },
    ...{ gbPerSecond: round(gbPerSecond), copyGbPerSecond: round(copyGbPerSecond) },
    share: round(gbPerSecond / copyGbPerSecond, 1000),
    device: device.description,
  };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function round(value: number, unit = 10): number {
  return Math.round(value * unit) / unit;
}

/** Seconds of one call, over about SECONDS of calls after as many to warm up. */
function timed(device: CudaBackend, step: () => void): number {
  const run = (count: number) => {
    const began = performance.now();
    for (let i = 0; i < count; i++) step();
    device.device.synchronize();
    return (performance.now() - began) / 1000 / count;
  };
  run(3);
  const count = Math.max(10, Math.min(5000, Math.ceil(SECONDS / run(10))));
  run(count);
  return run(count);
}

function maker(device: CudaBackend) {
  const buffers = new Set<ReturnType<CudaBackend["alloc"]>>();
  const tensor = (dtype: DType, rows: number, cols: number): Tensor => {
    const buffer = device.alloc(rows * cols * BYTES_PER_ELEMENT[dtype], "bench");
    buffers.add(buffer);
    const made = matrix(buffer, dtype, rows, cols);
    if (dtype !== "i32" && dtype !== "u8") device.run("fill", { y: made, value: 0.5 });
    return made;
  };
  return {
    tensor,
    /** Scattered row numbers, each once. */
    integers(rows: number, cols: number): Tensor {
      const made = tensor("i32", rows, cols);
      const values = Int32Array.from({ length: rows * cols }, (_, i) => (i * 4099) % rows);
      device.write(made.buffer as never, 0, new Uint8Array(values.buffer));
      return made;
    },
    release(): void {
      for (const buffer of buffers) buffer.dispose();
      buffers.clear();
    },
  };
}
