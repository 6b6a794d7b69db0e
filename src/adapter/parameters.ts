// The adapter on a device. Rank is a prefix of memory: A is [R, K] and B is kept as Bᵀ [R, M], so "the adapter at rank b"
// is the first b rows of both. Master weights, gradients and moments are f32; the linears read a copy in the compute dtype
// (the master itself when that is f32, or in training where the backend rounds masters as it reads them).

import type { Backend, Placement } from "../backends/backend.ts";
import type { AdapterParameters, LinearAdapter } from "../model/adapter-parameters.ts";
import type { LinearName, ModelConfig } from "../model/config.ts";
import { Parameter } from "../model/graph.ts";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../tensor/tensor.ts";
import type { AdapterConfig } from "./config.ts";
import { type Moments, momentKind, momentPools, type OptimizerState } from "./moments.ts";

/** One trained matrix and everything that belongs to it. All are [R, cols]. */
export interface AdapterTensor {
  /** `layers.3.q_proj.A` */
  readonly name: string;
  readonly layer: number;
  readonly linear: LinearName;
  readonly side: "A" | "B";
  readonly cols: number;
  readonly master: Tensor;
  /** bf16 copy that the linears read, or null when they read the master. */
  readonly copy: Tensor | null;
  /** Present while training. */
  readonly training: { readonly gradient: Tensor; readonly moments: Moments } | null;
}

const ALIGNMENT = 64;

/** Dtype of A and B as the linears read them. Decoding, bound by what it reads, has a copy in any case. */
export const readDtype = (
  backend: Pick<Backend, "readsMasters">,
  computeDtype: "bf16" | "f32",
  trained: boolean,
): "bf16" | "f32" => (trained && backend.readsMasters ? "f32" : computeDtype);

/** Name, place and width of every trained matrix, in file order. */
export function adapterLayout(model: ModelConfig, config: AdapterConfig) {
  const adapted = model.block.linears.filter(({ name }) => config.targets.includes(name));
  return Array.from({ length: model.layers }, (_, layer) => layer).flatMap((layer) =>
    adapted.flatMap((linear) =>
      (["A", "B"] as const).map((side) => ({
        name: `layers.${layer}.${linear.name}.${side}`,
        layer,
        linear: linear.name,
        side,
        cols: side === "A" ? linear.in : linear.out,
      })),
    ),
  );
}

/** Bytes of an adapter: masters and copies, and while training gradients and moments. */
export interface AdapterBytes {
  readonly device: number;
  /** Host memory that the device reads and writes: paged moments. */
  readonly host: number;
}

/**
 * @param read dtype of A and B as the linears read them
 * @param state null: nothing is trained
 */
export function adapterBytes(
  model: ModelConfig,
  config: AdapterConfig,
  read: "bf16" | "f32",
  state: OptimizerState | null,
): AdapterBytes {
  const widths = adapterLayout(model, config).map(({ cols }) => cols);
  const pool = (dtype: DType, of = (cols: number): number => cols): number =>
    widths.reduce((sum, cols) => sum + alignedBytes(dtype, config.rankMax * of(cols)), 0);
  const weights = pool("f32") + (read === "bf16" ? pool("bf16") : 0);
  if (state === null) return { device: weights, host: 0 };
  const moments = momentPools(state).reduce((sum, { dtype, cols }) => sum + pool(dtype, cols), 0);
  const paged = state === "adam32-paged";
  return { device: weights + pool("f32") + (paged ? 0 : moments), host: paged ? moments : 0 };
}

const alignedBytes = (dtype: DType, elements: number): number =>
  Math.ceil((elements * BYTES_PER_ELEMENT[dtype]) / ALIGNMENT) * ALIGNMENT;

export class Adapter implements AdapterParameters, Disposable {
  readonly config: AdapterConfig;
  readonly tensors: readonly AdapterTensor[];
  /** All gradients as one row, to zero them in one call; null when nothing is trained. */
  readonly gradients: Tensor | null;
  readonly #backend: Backend;
  readonly #buffers: DeviceBuffer[] = [];
  readonly #linears = new Map<string, LinearAdapter>();

  /**
   * Zeroed; fill it with `load` or `initialise`. Owned by the caller. Throws MEMORY_EXCEEDED.
   * @param state how moments are kept; null: nothing is trained
   */
  constructor(
    backend: Backend,
    model: ModelConfig,
    config: AdapterConfig,
    computeDtype: "bf16" | "f32",
    state: OptimizerState | null,
  ) {
    this.#backend = backend;
    this.config = config;
    const layout = adapterLayout(model, config);
    const widths = layout.map(({ cols }) => cols);
    const masters = this.#pool(widths, "f32", "adapter weights");
    const copies =
      readDtype(backend, computeDtype, state !== null) === "bf16"
        ? this.#pool(widths, "bf16", "adapter compute copy")
        : null;
    const gradients = state ? this.#pool(widths, "f32", "adapter gradients") : null;
    const moments = state ? this.#moments(widths, state) : null;
    const gradientBuffer = gradients?.[0]?.buffer;
    this.gradients = gradientBuffer ? matrix(gradientBuffer, "f32", 1, gradientBuffer.bytes / 4) : null;
    this.tensors = layout.map((entry, i) => ({
      ...entry,
      master: masters[i]!,
      copy: copies?.[i] ?? null,
      training: gradients && moments ? { gradient: gradients[i]!, moments: moments[i]! } : null,
    }));
    this.#pairUp();
  }

  get rankMax(): number {
    return this.config.rankMax;
  }

  linear(layer: number, name: LinearName): LinearAdapter | null {
    return this.#linears.get(`${layer}.${name}`) ?? null;
  }

  /** Replaces the weights (and their compute copies): by tensor name, f32 [R, cols] row-major. */
  load(weights: Iterable<readonly [string, Float32Array]>): void {
    const byName = new Map(this.tensors.map((tensor) => [tensor.name, tensor]));
    for (const [name, values] of weights) this.setWeights(byName.get(name)!, values);
  }

  /** Replaces one tensor's weights and its compute copy: f32 [R, cols] row-major. */
  setWeights(tensor: AdapterTensor, values: Float32Array): void {
    this.uploadBytes(tensor.master, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    if (tensor.copy) this.#backend.run("cast", { x: tensor.master, y: tensor.copy });
  }

  /** The weights on the host. */
  async weights(): Promise<Map<string, Float32Array>> {
    const all = new Map<string, Float32Array>();
    for (const tensor of this.tensors) all.set(tensor.name, await this.download(tensor.master));
    return all;
  }

  /** f32 values of one of this adapter's tensors. */
  async download(tensor: Tensor): Promise<Float32Array> {
    const bytes = await this.downloadBytes(tensor);
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  }

  /** One of this adapter's tensors as it is stored, row by row. */
  async downloadBytes(tensor: Tensor): Promise<Uint8Array> {
    const bytes = tensor.rows * tensor.cols * BYTES_PER_ELEMENT[tensor.dtype];
    return this.#backend.read(tensor.buffer, tensor.offset, bytes);
  }

  /** Writes one of this adapter's tensors as it is stored. */
  uploadBytes(tensor: Tensor, bytes: Uint8Array): void {
    this.#backend.write(tensor.buffer, tensor.offset, bytes);
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers) buffer.dispose();
  }

  #pool(widths: readonly number[], dtype: DType, label: string, placement: Placement = "device"): Tensor[] {
    const rows = this.config.rankMax;
    const bytes = widths.reduce((sum, cols) => sum + alignedBytes(dtype, rows * cols), 0);
    const buffer = this.#backend.alloc(Math.max(ALIGNMENT, bytes), label, placement);
    this.#buffers.push(buffer);
    let offset = 0;
    return widths.map((cols) => {
      const tensor = matrix(buffer, dtype, rows, cols, offset);
      offset += alignedBytes(dtype, rows * cols);
      return tensor;
    });
  }

  #moments(widths: readonly number[], state: OptimizerState): Moments[] {
    const placement = state === "adam32-paged" ? "host" : "device";
    const pools = momentPools(state).map(({ key, dtype, cols }) => ({
      key,
      tensors: this.#pool(widths.map(cols), dtype, `adapter moments (${key})`, placement),
    }));
    return widths.map((_, i) => {
      const tensors = Object.fromEntries(pools.map(({ key, tensors: pool }) => [key, pool[i]!]));
      // The pools of a kind have the keys of its tensors (momentPools).
      return { kind: momentKind(state), tensors } as unknown as Moments;
    });
  }

  #pairUp(): void {
    for (let i = 0; i < this.tensors.length; i += 2) {
      const [a, b] = [this.tensors[i]!, this.tensors[i + 1]!];
      this.#linears.set(`${a.layer}.${a.linear}`, { a: parameterOf(a), b: parameterOf(b) });
    }
  }
}

function parameterOf(tensor: AdapterTensor): Parameter {
  return new Parameter(tensor.name, tensor.copy ?? tensor.master, tensor.training?.gradient ?? null);
}
