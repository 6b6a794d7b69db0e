// AdamW over the rows that a step trained. Rows outside the window keep weights, moments and counters to the bit: in the
// DyLoRA reference code they drift by momentum and decay, since a zero gradient is still a gradient (`dense` does that).

import type { Adapter } from "../adapter/parameters.ts";
import type { Backend } from "../backends/backend.ts";
import { align } from "../model/arena-plan.ts";
import { phantomTensor } from "../model/phantom.ts";
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
  readonly #buffer: DeviceBuffer;
  /** i32 [R, 1]: updates of each row so far, this step's included while it runs. */
  readonly #steps: Tensor;
  /** f32 [1, 1] per tensor. */
  readonly #sums: readonly Tensor[];
  readonly #scratch: Tensor | null;
  #rowSteps: Int32Array;

  constructor(backend: Backend, adapter: Adapter, config: OptimizerConfig) {
    this.#backend = backend;
    this.#adapter = adapter;
    this.#config = config;
    const rows = adapter.rankMax;
    this.#rowSteps = new Int32Array(rows);
    const widths = adapter.tensors.map(({ cols }) => cols);
    const { stepBytes, sumBytes, scratchBytes, totalBytes } = counterBytes(backend, rows, widths);
    this.#buffer = backend.alloc(totalBytes, "optimizer counters");
    this.#steps = matrix(this.#buffer, "i32", rows, 1);
    this.#sums = adapter.tensors.map((_, i) => matrix(this.#buffer, "f32", 1, 1, stepBytes + 4 * i));
    this.#scratch = scratchBytes > 0 ? matrix(this.#buffer, "u8", 1, scratchBytes, stepBytes + sumBytes) : null;
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

  /** Norm of the gradient over the window's rows of all tensors; NaN or Infinity if some gradient is. */
  async gradientNorm({ from, to }: RowWindow): Promise<number> {
    this.#adapter.tensors.forEach((tensor, i) => {
      const x = rowSlice(tensor.training!.gradient, from, to);
      this.#backend.run("sumSquares", { x, sum: this.#sums[i]! }, this.#scratch);
    });
    const first = this.#sums[0]!;
    const bytes = await this.#backend.read(first.buffer, first.offset, this.#sums.length * 4);
    const sums = new Float32Array(bytes.slice().buffer);
    return Math.sqrt(sums.reduce((total, sum) => total + sum, 0));
  }

  /** One update of the window's rows. `gradientScale` is the clipping factor. */
  step(window: RowWindow, learningRate: number, gradientScale: number): void {
    const { from, to } = this.#config.dense ? { from: 0, to: this.#adapter.rankMax } : window;
    for (let row = from; row < to; row++) this.#rowSteps[row]! += 1;
    this.#backend.write(this.#buffer, this.#steps.offset, new Uint8Array(this.#rowSteps.buffer));
    const { beta1, beta2, epsilon, weightDecay, loraPlusRatio } = this.#config;
    for (const { master, copy, side, training } of this.#adapter.tensors) {
      this.#backend.run("adamW", {
        param: master,
        gradient: training!.gradient,
        m: training!.m,
        v: training!.v,
        steps: this.#steps,
        copy,
        from,
        to,
        learningRate: side === "B" ? learningRate * loraPlusRatio : learningRate,
        beta1,
        beta2,
        epsilon,
        weightDecay,
        gradientScale,
      });
    }
  }

  [Symbol.dispose](): void {
    this.#buffer.dispose();
  }
}

/** Bytes of an optimizer's own memory, beside the moments that lie with the adapter: row counters, sums, scratch. */
export function counterBytes(backend: Pick<Backend, "scratchBytes">, rankMax: number, widths: readonly number[]) {
  const stepBytes = align(rankMax * 4);
  const sumBytes = align(widths.length * 4);
  const sum = phantomTensor("f32", 1, 1);
  const scratch = widths.map((cols) =>
    backend.scratchBytes("sumSquares", { x: phantomTensor("f32", rankMax, cols), sum }),
  );
  const scratchBytes = Math.max(0, ...scratch);
  return { stepBytes, sumBytes, scratchBytes, totalBytes: stepBytes + sumBytes + scratchBytes };
}

/** Factor that brings a gradient of norm `norm` down to `maxNorm` (0: no clipping), as torch.nn.utils.clip_grad_norm_. */
export function clipFactor(norm: number, maxNorm: number): number {
  return maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1;
}
