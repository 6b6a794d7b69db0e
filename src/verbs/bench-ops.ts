// bench ops: the products that training lives on, at sizes of real layers, as a share of what a loop in registers reaches.

import type { Backend } from "../backends/backend.ts";
import { dynamicMap } from "../ops/code-books.ts";
import { type FrozenWeight, QUANT_BLOCK, SCALE_BLOCK } from "../ops/frozen-weight.ts";
import type { ArgsOf, OpName } from "../ops/index.ts";
import { settle } from "../quant/staging.ts";
import { randomStream } from "../random/philox.ts";
import { BYTES_PER_ELEMENT, type DType, toBf16 } from "../tensor/dtype.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../tensor/tensor.ts";
import { type BenchSettings, checkBench, needPeak } from "./bench-settings.ts";
import { medianSeconds } from "./bench-timing.ts";
import { openDevice } from "./open-device.ts";

export interface OpBench {
  readonly op: OpName;
  /** K→M, several M where linears share x. */
  readonly shape: string;
  readonly tokens: number;
  readonly rank: number;
  readonly gflops: number;
  readonly peakGflops: number;
  readonly share: number;
}

/** [K, M of each linear that shares x]. */
const LINEARS: readonly (readonly [number, readonly number[]])[] = [
  [2048, [2048]],
  [4096, [4096]],
  [576, [576]],
  [576, [1536]],
  [1536, [576]],
  [576, [576, 192, 192]],
];

/**
 * NF4 linears with double quantisation at 512 tokens (`batch`·`seq` if given), forward and backward (dX; with a rank, dA
 * and dB too). Throws CONFIG_INVALID.
 */
export async function benchOps(options: BenchSettings = {}): Promise<OpBench[]> {
  const settings = checkBench({ batch: 1, seq: 512, rankMax: 64, rank: 0, ...options });
  await using backend = await openDevice(settings);
  needPeak(backend);
  const { rank, rankMax } = settings;
  const computeDtype = settings.compute === "auto" ? backend.computeDtype : settings.compute;
  const tokens = settings.batch * settings.seq;
  const seconds = settings.seconds / 10;
  const results: OpBench[] = [];
  for (const [from, to] of LINEARS) {
    const peak = backend.measurePeak!(computeDtype);
    using bench = new Bench(backend, computeDtype);
    const { forward, backward } = bench.linears(tokens, from, to, rankMax, rank);
    const base = 2 * tokens * from * to.reduce((a, b) => a + b, 0);
    const adapter = 2 * tokens * rank * to.reduce((sum, m) => sum + from + m, 0);
    for (const [op, args, flops] of [
      ["adaptedLinears", forward, base + adapter],
      ["adaptedLinearsBackward", backward, base + 2 * adapter],
    ] as const) {
      const time = await medianSeconds(bench.prepared(op, args as never), seconds);
      results.push({
        op,
        shape: `${from}→${to.join("+")}`,
        tokens,
        rank,
        gflops: flops / time / 1e9,
        peakGflops: peak / 1e9,
        share: flops / time / peak,
      });
    }
  }
  return results;
}

/** Makes tensors of random values and frees them together. */
class Bench implements Disposable {
  readonly #backend: Backend;
  readonly #dtype: "bf16" | "f32";
  readonly #buffers: DeviceBuffer[] = [];
  readonly #stream = randomStream(1, "bench ops");

  constructor(backend: Backend, dtype: "bf16" | "f32") {
    this.#backend = backend;
    this.#dtype = dtype;
  }

  prepared<K extends OpName>(op: K, args: ArgsOf<K>): () => Promise<void> {
    const scratchBytes = this.#backend.scratchBytes(op, args);
    const scratch = scratchBytes > 0 ? this.#tensor("u8", 1, scratchBytes) : null;
    const call = this.#backend.prepare(op, args, scratch);
    return async () => {
      call();
      await settle(this.#backend, this.#buffers[0]!);
    };
  }

  linears(tokens: number, from: number, to: readonly number[], rankMax: number, rank: number) {
    const x = this.#floats(tokens, from);
    const weights = to.map((m) => this.#nf4(m, from));
    const a = to.map(() => this.#floats(rankMax, from));
    const b = to.map((m) => this.#floats(rankMax, m));
    const t = to.map(() => this.#floats(tokens, rankMax));
    const ranges = [{ from: 0, to: tokens, rank, scale: 0.5 }];
    const forward = {
      x,
      weights,
      biases: to.map(() => null),
      a,
      b,
      t,
      y: to.map((m) => this.#floats(tokens, m)),
      ranges,
    };
    const dy = to.map((m) => this.#floats(tokens, m));
    const da = to.map(() => this.#tensor("f32", rankMax, from));
    const db = to.map((m) => this.#tensor("f32", rankMax, m));
    return { forward, backward: { x, weights, a, b, t, dy, dx: this.#floats(tokens, from), da, db, ranges } };
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers) buffer.dispose();
  }

  #tensor(dtype: DType, rows: number, cols: number, values?: ArrayBufferView): Tensor {
    const buffer = this.#backend.alloc(rows * cols * BYTES_PER_ELEMENT[dtype], "bench");
    this.#buffers.push(buffer);
    if (values) this.#backend.write(buffer, 0, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return matrix(buffer, dtype, rows, cols);
  }

  #floats(rows: number, cols: number): Tensor {
    const values = Float32Array.from({ length: rows * cols }, (_, i) => this.#stream.uniform(i) - 0.5);
    return this.#tensor(this.#dtype, rows, cols, this.#dtype === "bf16" ? Uint16Array.from(values, toBf16) : values);
  }

  #nf4(rows: number, cols: number): FrozenWeight {
    const blocks = Math.ceil((rows * cols) / QUANT_BLOCK);
    const bytes = (count: number) => Uint8Array.from({ length: count }, (_, i) => this.#stream.u32(i) & 255);
    const codes = this.#tensor("u8", 1, Math.ceil((rows * cols) / 2), bytes(Math.ceil((rows * cols) / 2)));
    const count = Math.ceil(blocks / SCALE_BLOCK);
    return {
      format: "nf4",
      rows,
      cols,
      codes,
      scales: {
        kind: "double",
        codes: this.#tensor("u8", 1, blocks, bytes(blocks)),
        absmax2: this.#tensor("f32", 1, count, new Float32Array(count).fill(0.01)),
        map: this.#tensor("f32", 1, 256, Float32Array.from(dynamicMap())),
        offset: 0.05,
      },
    };
  }
}
