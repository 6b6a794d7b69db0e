// The cuda backend's attention, one JSON line per measurement: node bench/run.mjs bench/cuda-attention.ts [training decoding].
// FLOP/s count pairs of a query and a key that it sees, the backward five products (2.5 × the forward's). Sustained: cards are
// power-limited, and short bursts read 10–15 % high.

import { addressOf, type CudaBuffer } from "../src/backends/cuda/buffer.ts";
import { openCuda } from "../src/backends/cuda/cuda.ts";
import { visiblePairs } from "../src/ops/attention-heads.ts";
import type { ArgsOf, OpName } from "../src/ops/index.ts";
import { BYTES_PER_ELEMENT, type DType, toBf16 } from "../src/tensor/dtype.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../src/tensor/tensor.ts";
import { reportOn, round, timedOn } from "./cuda-timing.ts";

interface Shape {
  readonly headDim: number;
  readonly heads: number;
  readonly groups: number;
  readonly segments: number;
  readonly rows: number;
  readonly window?: number;
  readonly softCap?: number;
}

const SECONDS = 0.3;
const HIDDEN = 4096;

const backend = await openCuda();
const held: DeviceBuffer[] = [];

/** Normal numbers, the same in every run. */
const normals = Uint16Array.from({ length: (1 << 20) - 3 }, (_, i) => {
  const [a, b] = [fraction(i, 0.618033988749895), fraction(i, 0.754877666246693)];
  return toBf16(Math.sqrt(-2 * Math.log(a + 1e-9)) * Math.cos(2 * Math.PI * b));
});

const sourceBuffer = backend.alloc(normals.byteLength, "normals");
backend.write(sourceBuffer, 0, new Uint8Array(normals.buffer));
const source = matrix(sourceBuffer, "bf16", 1, normals.length);

function fraction(i: number, step: number): number {
  return (i * step) % 1;
}

function empty(dtype: DType, rows: number, cols: number): Tensor {
  const buffer = backend.alloc(rows * cols * BYTES_PER_ELEMENT[dtype], "bench");
  held.push(buffer);
  return matrix(buffer, dtype, rows, cols);
}

/** Copied on the device, each tensor from another place of the normals. */
function numbers(rows: number, cols: number): Tensor {
  const tensor = empty("bf16", rows, cols);
  const { driver, stream } = backend.device;
  const skipped = (held.length * 8198) % 131_072;
  const most = normals.byteLength - skipped;
  for (let at = 0; at < tensor.buffer.bytes; at += most)
    driver.checked.memcpyOnDevice(
      addressOf(tensor) + at,
      addressOf(source) + skipped,
      Math.min(most, tensor.buffer.bytes - at),
      stream,
    );
  return tensor;
}

function integers(values: readonly number[]): Tensor {
  const tensor = empty("i32", values.length, 1);
  backend.write(tensor.buffer as CudaBuffer, 0, new Uint8Array(Int32Array.from(values).buffer));
  return tensor;
}

function prepared<K extends OpName>(op: K, args: ArgsOf<K>): () => void {
  const bytes = backend.scratchBytes(op, args);
  return backend.prepare(op, args, bytes > 0 ? empty("u8", 1, bytes) : null);
}

function timed(step: () => void, seconds = SECONDS): number {
  return timedOn(backend, step, seconds);
}

function report(line: Record<string, unknown>): void {
  reportOn(backend, line);
}

function release(): void {
  for (const buffer of held.splice(0)) buffer.dispose();
}

function trainingCase({ headDim, heads, groups, segments, rows, window, softCap }: Shape): void {
  const length = rows / segments;
  const wide = () => numbers(rows, heads * headDim);
  const narrow = () => numbers(rows, groups * headDim);
  const attributes = { headDim, scale: 1 / Math.sqrt(headDim), window: window ?? null, softCap: softCap ?? null };
  const forward = {
    ...{ q: wide(), k: narrow(), v: narrow(), o: wide(), lse: empty("f32", rows, heads) },
    starts: integers(Array.from({ length: segments + 1 }, (_, s) => s * length)),
    ...attributes,
  };
  const backward = { ...forward, dO: wide(), dq: wide(), dk: narrow(), dv: narrow() };
  const shape = { headDim, heads, groups, tokens: `${segments}x${length}`, window, softCap };
  const flops = 4 * segments * visiblePairs(length, attributes) * heads * headDim;
  for (const [op, factor, step] of [
    ["attention", 1, prepared("attention", forward)],
    ["attentionBackward", 2.5, prepared("attentionBackward", backward)],
  ] as const) {
    const seconds = timed(step);
    report({ op, ...shape, microseconds: round(1e6 * seconds), tflops: round((factor * flops) / seconds / 1e12) });
  }
  release();
}

function training(): void {
  for (const headDim of [64, 80, 96, 128, 256]) {
    const heads = Math.floor(HIDDEN / headDim);
    for (const length of [512, 2048, 4096])
      trainingCase({ headDim, heads, groups: heads, segments: 8192 / length, rows: 8192 });
  }
  const llama = { headDim: 128, heads: 32, segments: 1, rows: 4096 };
  trainingCase({ ...llama, groups: 32 });
  trainingCase({ ...llama, groups: 8 });
  trainingCase({ ...llama, groups: 32, segments: 16 });
  trainingCase({ ...llama, groups: 32, window: 1024 });
  trainingCase({ ...llama, groups: 32, softCap: 50 });
  // Falcon-40B at 4×512 and Falcon-7B.
  trainingCase({ headDim: 64, heads: 128, groups: 8, segments: 4, rows: 2048 });
  trainingCase({ headDim: 64, heads: 71, groups: 1, segments: 1, rows: 2048 });
}

/** One query for each of `batch` sequences, bound by reading their keys and values. */
function decodingCase(batch: number, heads: number, groups: number, headDim: number, length: number): void {
  // Several caches in turns: what is read comes from memory and not from the L2 cache.
  const copies = Math.max(1, Math.ceil((192 << 20) / (4 * batch * length * groups * headDim)));
  const steps = Array.from({ length: copies }, () =>
    prepared("attentionCached", {
      ...{ q: numbers(batch, heads * headDim), o: numbers(batch, heads * headDim) },
      ...{ kCache: numbers(batch * length, groups * headDim), vCache: numbers(batch * length, groups * headDim) },
      slots: integers(Array.from({ length: batch }, (_, i) => i * length)),
      lengths: integers(Array.from({ length: batch }, () => length)),
      ...{ headDim, scale: 1 / Math.sqrt(headDim), window: null, softCap: null },
    }),
  );
  let turn = 0;
  const seconds = timed(() => steps[turn++ % copies]!(), 0.2);
  const count = 4 * batch * length * groups * headDim;
  const [from, to] = [empty("u8", 1, count / 2), empty("u8", 1, count / 2)].map(addressOf);
  const { driver, stream } = backend.device;
  const copy = timed(() => driver.checked.memcpyOnDevice(to!, from!, count / 2, stream), 0.2);
  report({
    ...{ op: "attentionCached", headDim, heads, groups, batch, length, microseconds: round(1e6 * seconds) },
    ...{ gbPerSecond: round(count / seconds / 1e9), copyGbPerSecond: round(count / copy / 1e9) },
  });
  release();
}

function decoding(): void {
  decodingCase(1, 32, 32, 128, 4096);
  decodingCase(8, 32, 32, 128, 4096);
  decodingCase(1, 32, 8, 128, 8192);
  decodingCase(16, 32, 8, 128, 4096);
  decodingCase(32, 64, 8, 128, 2048);
  decodingCase(8, 71, 1, 64, 2048);
  decodingCase(16, 8, 4, 256, 4096);
  decodingCase(7, 9, 3, 64, 2048);
}

const parts = { training, decoding };
const wanted = process.argv.slice(3);
for (const [name, part] of Object.entries(parts)) if (wanted.length === 0 || wanted.includes(name)) part();
sourceBuffer.dispose();
await backend[Symbol.asyncDispose]();
