// The cuda backend's linears and loss at the widths of LLaMA-7B and Llama-3-8B, one JSON line per measurement:
// node bench/run.mjs bench/cuda-linears.ts [products dequantize layers loss decode]. Sustained: cards are power-limited, and
// short bursts read 10–15 % high.

import type { CudaBackend } from "../src/backends/cuda/cuda.ts";
import { openCuda } from "../src/backends/cuda/cuda.ts";
import { product } from "../src/backends/cuda/products.ts";
import { dynamicMap } from "../src/ops/code-books.ts";
import type { FourBitWeight } from "../src/ops/frozen-weight.ts";
import type { ArgsOf, OpName } from "../src/ops/index.ts";
import { BYTES_PER_ELEMENT, type DType } from "../src/tensor/dtype.ts";
import { colSlice, type DeviceBuffer, matrix, type Tensor } from "../src/tensor/tensor.ts";
import { reportOn, round, timedOn } from "./cuda-timing.ts";

const TOKENS = 8192;
const HIDDEN = 4096;
const FEED_FORWARD = 11_008;
const VOCABULARY = 32_000;
const RANK = 64;
const SECONDS = 1.5;

type Step = () => void;

const backend: CudaBackend = await openCuda();
const held: DeviceBuffer[] = [];

/** Random bytes, once: what values are does not matter, but zeros draw less power. */
const noise = (() => {
  const words = new Uint32Array(1 << 20);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = state;
  }
  return new Uint8Array(words.buffer);
})();

function alloc(bytes: number): DeviceBuffer {
  const buffer = backend.alloc(bytes, "bench");
  held.push(buffer);
  return buffer;
}

function fill(buffer: DeviceBuffer, content: Uint8Array): void {
  for (let at = 0; at < buffer.bytes; at += content.byteLength)
    backend.write(buffer as never, at, content.subarray(0, Math.min(content.byteLength, buffer.bytes - at)));
}

/** Numbers of about ±0.02…0.06 with random mantissas. */
function numbers(dtype: DType, rows: number, cols: number): Tensor {
  const buffer = alloc(rows * cols * BYTES_PER_ELEMENT[dtype]);
  const halves = new Uint16Array(noise.slice().buffer);
  if (dtype === "bf16") for (let i = 0; i < halves.length; i++) halves[i] = (halves[i]! & 0x80ff) | 0x3d00;
  else for (let i = 1; i < halves.length; i += 2) halves[i] = (halves[i]! & 0x80ff) | 0x3d00;
  fill(buffer, new Uint8Array(halves.buffer));
  return matrix(buffer, dtype, rows, cols);
}

function bytes(count: number): Tensor {
  const buffer = alloc(count);
  fill(buffer, noise);
  return matrix(buffer, "u8", 1, count);
}

function floats(values: Float32Array): Tensor {
  const buffer = alloc(values.byteLength);
  backend.write(buffer as never, 0, new Uint8Array(values.buffer));
  return matrix(buffer, "f32", 1, values.length);
}

function nf4(rows: number, cols: number, double = true): FourBitWeight {
  const blocks = (rows * cols) / 64;
  const codes = bytes((rows * cols) / 2);
  const scales = double
    ? ({
        kind: "double",
        codes: bytes(blocks),
        absmax2: floats(new Float32Array(Math.ceil(blocks / 256)).fill(0.02)),
        map: floats(dynamicMap()),
        offset: 0.05,
      } as const)
    : ({ kind: "plain", absmax: numbers("f32", 1, blocks) } as const);
  return { format: "nf4", rows, cols, codes, scales };
}

const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

/** Column blocks of one matrix. */
function sideBySide(rows: number, widths: readonly number[]): Tensor[] {
  const whole = numbers("bf16", rows, sum(widths));
  let from = 0;
  return widths.map((width) => {
    from += width;
    return colSlice(whole, from - width, from);
  });
}

function prepared<K extends OpName>(op: K, args: ArgsOf<K>, scratch: Tensor): Step {
  return backend.prepare(op, args, scratch);
}

/** Linears that share x: forward and backward calls, with tails. */
function group(tokens: number, cols: number, outs: readonly number[], rank: number, adapters: "bf16" | "f32") {
  const weights = outs.map((rows) => nf4(rows, cols));
  const [x, xTail] = sideBySide(tokens, [cols, RANK]);
  const packed = sideBySide(tokens, [...outs, RANK * outs.length]);
  const a = outs.map(() => numbers(adapters, RANK, cols));
  const b = outs.map((out) => numbers(adapters, RANK, out));
  const t = outs.map(() => numbers("bf16", tokens, RANK));
  const ranges = [{ from: 0, to: tokens, rank, scale: 0.25 }];
  const forward: ArgsOf<"adaptedLinears"> = {
    ...{ x: x!, weights, biases: outs.map(() => null), a, b, t, ranges },
    y: outs.map((out) => numbers("bf16", tokens, out)),
    xTail: xTail!,
  };
  const backward: ArgsOf<"adaptedLinearsBackward"> = {
    ...{ x: x!, weights, a, b, t, ranges },
    dy: packed.slice(0, -1),
    dx: numbers("bf16", tokens, cols),
    da: outs.map(() => numbers("f32", RANK, cols)),
    db: outs.map((out) => numbers("f32", RANK, out)),
    dyTail: packed.at(-1)!,
  };
  return { forward, backward, frozenFlops: 2 * tokens * cols * sum(outs) };
}

function scratchFor(needs: readonly number[]): Tensor {
  const most = Math.max(1, ...needs);
  return matrix(alloc(most), "u8", 1, most);
}

function timed(step: Step, seconds = SECONDS): number {
  return timedOn(backend, step, seconds);
}

function report(line: Record<string, unknown>): void {
  reportOn(backend, line);
}

function release(): void {
  for (const buffer of held.splice(0)) buffer.dispose();
}

function copyGbPerSecond(count: number): number {
  const half = Math.floor(count / 2);
  const [from, to] = [alloc(half), alloc(half)] as unknown as { address: number }[];
  const { driver, stream } = backend.device;
  return (2 * half) / timed(() => driver.checked.memcpyOnDevice(to!.address, from!.address, half, stream), 0.2) / 1e9;
}

/** cuBLASLt itself, with and without the adapter's columns. */
function products(): void {
  for (const [cols, out] of [
    [HIDDEN, HIDDEN],
    [HIDDEN, FEED_FORWARD],
    [FEED_FORWARD, HIDDEN],
  ] as const)
    for (const [extra, tail] of [
      [0, 0],
      [8, 8],
      [8, RANK],
      [RANK, RANK],
    ] as const)
      for (const forward of [true, false]) {
        const k = (forward ? cols : out) + extra;
        const a = colSlice(numbers("bf16", TOKENS, (forward ? cols : out) + tail), 0, k);
        const b = forward ? colSlice(numbers("bf16", out, cols + tail), 0, k) : numbers("bf16", k, cols);
        const c = numbers("bf16", TOKENS, forward ? out : cols);
        const seconds = timed(product(backend.device, { c, a, b, transposeB: forward }), 0.7);
        const flops = 2 * TOKENS * a.cols * c.cols;
        const shape = `${TOKENS}x${a.cols}x${c.cols}`;
        report({
          op: forward ? "product y" : "product dX",
          shape,
          ...{ extra, tail },
          ms: round(1e3 * seconds, 1e4),
          tflops: round(flops / seconds / 1e12),
        });
        release();
      }
}

function dequantize(): void {
  for (const double of [false, true])
    for (const [rows, cols] of [
      [HIDDEN, HIDDEN],
      [FEED_FORWARD, HIDDEN],
      [HIDDEN, FEED_FORWARD],
    ] as const)
      for (const extra of [0, RANK]) {
        // Several weights in turns: their codes come from memory and not from cache.
        const whole = numbers("bf16", rows, cols + extra);
        const y = colSlice(whole, 0, cols);
        const steps = Array.from({ length: 4 }, () =>
          prepared("dequantize", { weight: nf4(rows, cols, double), y }, whole),
        );
        let turn = 0;
        const seconds = timed(() => steps[turn++ % 4]!(), 0.3);
        const scales = ((rows * cols) / 64) * (double ? 1 + 4 / 256 : 4);
        const count = rows * cols * 2.5 + scales;
        const copy = copyGbPerSecond(count);
        const gbPerSecond = count / seconds / 1e9;
        const line = { op: "dequantize", shape: `${rows}x${cols} nf4${double ? " double" : ""}`, stride: cols + extra };
        report({
          ...line,
          microseconds: round(1e6 * seconds),
          gbPerSecond: round(gbPerSecond),
          copyGbPerSecond: round(copy),
          share: round(gbPerSecond / copy, 1000),
        });
        release();
      }
}

/** The linears of a layer with R = 64 on all of them: groups by in-features and out-features. */
function layer(model: string, rank: number, shapes: Record<string, readonly [number, readonly number[]]>): void {
  const groups = Object.entries(shapes).map(([name, [cols, outs]]) => ({
    name,
    ...group(TOKENS, cols, outs, rank, "f32"),
  }));
  const scratch = scratchFor(
    groups.flatMap(({ forward, backward }) => [
      backend.scratchBytes("adaptedLinears", forward),
      backend.scratchBytes("adaptedLinearsBackward", backward),
    ]),
  );
  const steps = groups.map(({ name, forward, backward, frozenFlops }) => ({
    name,
    frozenFlops,
    forward: prepared("adaptedLinears", forward, scratch),
    backward: prepared("adaptedLinearsBackward", backward, scratch),
  }));
  const all = (pass: "forward" | "backward") => () => {
    for (const step of steps) step[pass]();
  };
  const flops = sum(steps.map(({ frozenFlops }) => frozenFlops));
  const shape = `${model}, ${TOKENS} tokens, b ${rank}`;
  const line = (op: string, seconds: number, of: number) =>
    report({ op, shape, ms: round(1e3 * seconds, 1000), frozenTflops: round(of / seconds / 1e12) });
  const began = performance.now();
  all("forward")();
  all("backward")();
  backend.device.synchronize();
  const tuningSeconds = (performance.now() - began) / 1000;
  if (rank === RANK)
    for (const step of steps)
      for (const pass of ["forward", "backward"] as const)
        line(`${step.name} ${pass}`, timed(step[pass], 0.4), step.frozenFlops);
  line("layer forward", timed(all("forward")), flops);
  line("layer backward", timed(all("backward")), flops);
  const both = timed(() => {
    all("forward")();
    all("backward")();
  }, 3);
  line("layer", both, 2 * flops);
  report({ op: "layer, first call", shape, seconds: round(tuningSeconds, 100), scratchBytes: scratch.cols });
  release();
}

function layers(): void {
  const llama7b = {
    qkv: [HIDDEN, [HIDDEN, HIDDEN, HIDDEN]],
    o: [HIDDEN, [HIDDEN]],
    gateUp: [HIDDEN, [FEED_FORWARD, FEED_FORWARD]],
    down: [FEED_FORWARD, [HIDDEN]],
  } as const;
  layer("llama-7b", RANK, llama7b);
  layer("llama-7b", 1, llama7b);
  layer("llama3-8b", RANK, {
    qkv: [HIDDEN, [HIDDEN, 1024, 1024]],
    o: [HIDDEN, [HIDDEN]],
    gateUp: [HIDDEN, [14_336, 14_336]],
    down: [14_336, [HIDDEN]],
  });
}

function loss(): void {
  for (const vocabulary of [VOCABULARY, 128_256]) {
    const args: ArgsOf<"linearCrossEntropy"> = {
      x: numbers("bf16", TOKENS, HIDDEN),
      weight: numbers("bf16", vocabulary, HIDDEN),
      targets: matrix(alloc(4 * TOKENS), "i32", TOKENS, 1),
      tokenWeights: numbers("f32", TOKENS, 1),
      loss: numbers("f32", TOKENS, 1),
      dx: numbers("bf16", TOKENS, HIDDEN),
      softCap: null,
    };
    backend.write(
      args.targets.buffer as never,
      0,
      new Uint8Array(Int32Array.from({ length: TOKENS }, (_, i) => (i * 37) % vocabulary).buffer),
    );
    const scratch = scratchFor([backend.scratchBytes("linearCrossEntropy", args)]);
    const seconds = timed(prepared("linearCrossEntropy", args, scratch));
    const flops = 4 * TOKENS * HIDDEN * vocabulary;
    report({
      op: "linearCrossEntropy",
      shape: `${TOKENS}x${HIDDEN}x${vocabulary}`,
      ms: round(1e3 * seconds, 1000),
      tflops: round(flops / seconds / 1e12),
      scratchBytes: scratch.cols,
    });
    release();
  }
}

/** Decoding: a few rows against the weights of a layer, bound by reading them. */
function decode(): void {
  const large = copyGbPerSecond(1 << 30);
  for (const rows of [1, 8])
    for (const rank of [0, RANK])
      for (const [cols, outs] of [
        [HIDDEN, [HIDDEN, HIDDEN, HIDDEN]],
        [HIDDEN, [HIDDEN]],
        [HIDDEN, [FEED_FORWARD, FEED_FORWARD]],
        [FEED_FORWARD, [HIDDEN]],
      ] as const) {
        const calls = Array.from({ length: 8 }, () => group(rows, cols, outs, RANK, "bf16").forward);
        const ranges = Array.from({ length: rows }, (_, i) => ({
          from: i,
          to: i + 1,
          rank: Math.ceil(rank / 2 ** i),
          scale: 0.5,
        }));
        const scratch = scratchFor(calls.map((call) => backend.scratchBytes("adaptedLinears", call)));
        const steps = calls.map((call) => prepared("adaptedLinears", { ...call, ranges }, scratch));
        let turn = 0;
        const seconds = timed(() => steps[turn++ % steps.length]!(), 0.2);
        const count = sum(outs) * cols * (0.5 + 1 / 64) + 2 * rank * (outs.length * cols + sum(outs));
        report({
          op: "adaptedLinears decode",
          shape: `${rows} rows, ${cols} to ${outs.join("+")}`,
          rank,
          microseconds: round(1e6 * seconds),
          gbPerSecond: round(count / seconds / 1e9),
          copyGbPerSecond: round(large),
        });
        release();
      }
  for (const rows of [1, 8]) {
    const args = {
      x: numbers("bf16", rows, HIDDEN),
      weight: numbers("bf16", VOCABULARY, HIDDEN),
      y: numbers("f32", rows, VOCABULARY),
    };
    const seconds = timed(prepared("matmul", args, scratchFor([backend.scratchBytes("matmul", args)])), 0.2);
    report({
      op: "matmul decode",
      shape: `${rows}x${HIDDEN}x${VOCABULARY}`,
      microseconds: round(1e6 * seconds),
      gbPerSecond: round((2 * VOCABULARY * HIDDEN) / seconds / 1e9),
      copyGbPerSecond: round(large),
    });
    release();
  }
}

const parts = { products, dequantize, layers, loss, decode };
const wanted = process.argv.slice(3);
for (const [name, part] of Object.entries(parts)) if (wanted.length === 0 || wanted.includes(name)) part();
await backend[Symbol.asyncDispose]();
