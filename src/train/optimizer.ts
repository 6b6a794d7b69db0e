// AdamW over the rows that a step trained. Rows outside the window keep weights, moments and counters to the bit: in the
// DyLoRA reference code they drift by momentum and decay, since a zero gradient is still a gradient (`dense` does that).

import type { CodedMoments, FullMoments } from "../adapter/moments.ts";
import type { Adapter, AdapterTensor } from "../adapter/parameters.ts";
import type { Backend } from "../backends/backend.ts";
import { align } from "../model/arena-plan.ts";
import { phantomTensor } from "../model/phantom.ts";
import type { AdamWSettings } from "../ops/adam-w-rule.ts";
import { dynamicMap, unsignedDynamicMap } from "../ops/code-books.ts";
import { type DeviceBuffer, matrix, rowSlice, type Tensor } from "../tensor/tensor.ts";
import type { OptimizerConfig } from "./config.ts";

export interface RowWindow {
  readonly from: number;
  readonly to: number;
}

export class RowWindowedAdamW implements Disposable {
  readonly #backend: Backend;
  readonly #adapter: Adapter;
  readonly #config: OptimizerConfig;
  readonly #own: OwnTensors;
  #rowSteps: Int32Array;

  constructor(backend: Backend, adapter: Adapter, config: OptimizerConfig) {
    this.#backend = backend;
    this.#adapter = adapter;
    this.#config = config;
    this.#rowSteps = new Int32Array(adapter.rankMax);
    const widths = adapter.tensors.map(({ cols }) => cols);
    this.#own = allocateOwn(backend, adapter.rankMax, widths);
    // Thousands of tensors are checked once, at all rows, and not at every step.
    const all = { from: 0, to: adapter.rankMax };
    this.#sumSquares(all, false);
    this.#update({ ...all, ...this.#settings(0) }, false);
  }

  /** Updates of each row so far. */
  get rowSteps(): Int32Array {
    return this.#rowSteps.slice();
  }

  restore(rowSteps: Int32Array): void {
    this.#rowSteps = rowSteps.slice();
  }

  /** Zeroes all gradients, also those of rows that this step will not train. */
  zeroGradients(): void {
    this.#backend.run("fill", { y: this.#adapter.gradients!, value: 0 });
  }

  /**
   * One update of the window's rows, clipped by the norm of their gradient over all tensors.
   * @returns that norm before clipping; if it is NaN or Infinity, the device left everything as it was
   */
  step(window: RowWindow, learningRate: number): Promise<number> {
    return this.prepare(window, learningRate)();
  }

  /**
   * The same update, made ready: the host's part of it takes no time while the device still makes the gradients.
   * @returns what takes the update, once
   */
  prepare(window: RowWindow, learningRate: number): () => Promise<number> {
    const { from, to } = this.#config.dense ? { from: 0, to: this.#adapter.rankMax } : window;
    const sumSquares = this.#sumSquares(window, true);
    const update = this.#update({ from, to, ...this.#settings(learningRate) }, true);
    return async () => {
      sumSquares();
      const before = this.rowSteps;
      for (let row = from; row < to; row++) this.#rowSteps[row]! += 1;
      this.#backend.write(this.#own.buffer, this.#own.steps.offset, new Uint8Array(this.#rowSteps.buffer));
      update();
      const norm = Math.sqrt(await this.#readSquares());
      if (!Number.isFinite(norm)) this.#rowSteps = before;
      return norm;
    };
  }

  #settings(learningRate: number): Omit<AdamWSettings, "from" | "to"> {
    const { beta1, beta2, epsilon, weightDecay, loraPlusRatio, maxGradNorm } = this.#config;
    const learningRates = this.#adapter.tensors.map(({ side }) =>
      side === "B" ? learningRate * loraPlusRatio : learningRate,
    );
    return { learningRates, beta1, beta2, epsilon, weightDecay, maxNorm: maxGradNorm };
  }

  #sumSquares({ from, to }: RowWindow, checked: boolean): () => void {
    const { squares, scratch } = this.#own;
    const xs = this.#adapter.tensors.map(({ training }) => rowSlice(training!.gradient, from, to));
    return this.#backend.prepare("sumSquares", { xs, sum: squares }, scratch, checked);
  }

  #update(settings: AdamWSettings, checked: boolean): () => void {
    const { tensors } = this.#adapter;
    const { steps, squares, mMap, vMap } = this.#own;
    const shared = {
      ...settings,
      params: tensors.map(({ master }) => master),
      gradients: tensors.map(({ training }) => training!.gradient),
      copies: tensors.map(({ copy }) => copy),
      steps,
      squares,
    };
    if (this.#config.state === "adam8") {
      const of = (key: keyof CodedMoments["tensors"]) => tensors.map((tensor) => momentsOf<CodedMoments>(tensor)[key]);
      const moments = { mCodes: of("mCodes"), mAbsmax: of("mAbsmax"), vCodes: of("vCodes"), vAbsmax: of("vAbsmax") };
      return this.#backend.prepare("adamW8bit", { ...shared, ...moments, mMap, vMap }, null, checked);
    }
    const of = (key: keyof FullMoments["tensors"]) => tensors.map((tensor) => momentsOf<FullMoments>(tensor)[key]);
    return this.#backend.prepare("adamW", { ...shared, ms: of("m"), vs: of("v") }, null, checked);
  }

  async #readSquares(): Promise<number> {
    const bytes = await this.#backend.read(this.#own.buffer, this.#own.squares.offset, 4);
    return new Float32Array(bytes.buffer, bytes.byteOffset, 1)[0]!;
  }

  [Symbol.dispose](): void {
    this.#own.buffer.dispose();
  }
}

/** The optimizer's state decides which moments the adapter was given. */
const momentsOf = <M extends FullMoments | CodedMoments>({ training }: AdapterTensor): M["tensors"] =>
  training!.moments.tensors as M["tensors"];

/** Memory of an optimizer beside the moments, which lie with the adapter. */
interface OwnTensors {
  readonly buffer: DeviceBuffer;
  /** i32 [R, 1]: updates of each row so far, this step's included while it runs. */
  readonly steps: Tensor;
  /** f32 [1, 1] */
  readonly squares: Tensor;
  /** f32 [1, 256]: the maps of 8-bit moments. */
  readonly mMap: Tensor;
  readonly vMap: Tensor;
  readonly scratch: Tensor | null;
}

const MAP_BYTES = 4 * 256;

function allocateOwn(backend: Backend, rows: number, widths: readonly number[]): OwnTensors {
  const { stepBytes, scratchBytes, totalBytes } = optimizerBytes(backend, rows, widths);
  const buffer = backend.alloc(totalBytes, "optimizer counters");
  const maps = stepBytes + align(4);
  for (const [i, map] of [dynamicMap(), unsignedDynamicMap()].entries())
    backend.write(buffer, maps + i * MAP_BYTES, new Uint8Array(map.buffer));
  return {
    buffer,
    steps: matrix(buffer, "i32", rows, 1),
    squares: matrix(buffer, "f32", 1, 1, stepBytes),
    mMap: matrix(buffer, "f32", 1, 256, maps),
    vMap: matrix(buffer, "f32", 1, 256, maps + MAP_BYTES),
    scratch: scratchBytes > 0 ? matrix(buffer, "u8", 1, scratchBytes, maps + 2 * MAP_BYTES) : null,
  };
}

/** Bytes of an optimizer's own memory, beside the moments that lie with the adapter. */
export function optimizerBytes(backend: Pick<Backend, "scratchBytes">, rankMax: number, widths: readonly number[]) {
  const stepBytes = align(rankMax * 4);
  const xs = widths.map((cols) => phantomTensor("f32", rankMax, cols));
  const scratchBytes = backend.scratchBytes("sumSquares", { xs, sum: phantomTensor("f32", 1, 1) });
  return { stepBytes, scratchBytes, totalBytes: stepBytes + align(4) + 2 * MAP_BYTES + scratchBytes };
}
