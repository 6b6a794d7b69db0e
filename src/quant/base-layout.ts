// Where everything of a frozen base lies in its one device buffer. Pure: sizes in, offsets out, so that the bytes of a base
// are known before anything is allocated.

import type { ModelConfig } from "../model/config.ts";
import { LINEAR_NAMES, type LinearName, linearShapes, modulePath } from "../model/frozen-model.ts";
import type { FourBitFormat } from "../ops/code-books.ts";
import { type BaseFormat, QUANT_BLOCK, SCALE_BLOCK } from "../ops/frozen-weight.ts";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.ts";
import { type DeviceBuffer, matrix, type Tensor } from "../tensor/tensor.ts";

/** A tensor to be, at `offset` bytes of a buffer. */
export interface Slot {
  readonly offset: number;
  readonly dtype: DType;
  readonly rows: number;
  readonly cols: number;
}

export type ScaleSlots =
  | { readonly kind: "plain"; readonly absmax: Slot }
  | { readonly kind: "double"; readonly codes: Slot; readonly absmax2: Slot; readonly map: Slot };

export type WeightSlots =
  | { readonly format: "bf16" | "f32"; readonly values: Slot }
  | { readonly format: FourBitFormat; readonly codes: Slot; readonly scales: ScaleSlots };

export interface LinearSlots {
  readonly rows: number;
  readonly cols: number;
  readonly weight: WeightSlots;
  readonly bias: Slot | null;
}

export interface LayerSlots {
  readonly attentionNorm: Slot;
  readonly feedForwardNorm: Slot;
  readonly linears: Readonly<Record<LinearName, LinearSlots>>;
}

export interface BaseLayout {
  readonly embedding: Slot;
  /** The embedding's slot when tied. */
  readonly head: Slot;
  readonly finalNorm: Slot;
  /** f32 [1, 256] each: the distinct maps of double-quantised scales. */
  readonly maps: readonly Slot[];
  readonly layers: readonly LayerSlots[];
  readonly bytes: number;
}

/** How one linear is held; `map` is the index of its scales' map, or null for plain scales. */
export interface WeightStorage {
  readonly format: BaseFormat;
  readonly map: number | null;
}

export interface LayoutOptions {
  readonly config: ModelConfig;
  readonly computeDtype: "bf16" | "f32";
  /** Dtype of embedding and head. */
  readonly embeddingDtype: "bf16" | "f32";
  readonly maps: number;
  readonly storage: (layer: number, name: LinearName) => WeightStorage;
}

/** Views start at multiples of this: enough for vector loads on every device. */
const ALIGNMENT = 256;

export function layOutBase({ config, computeDtype, embeddingDtype, maps, storage }: LayoutOptions): BaseLayout {
  const space = new Space();
  const vector = (cols: number): Slot => space.take(computeDtype, 1, cols);
  const mapSlots = Array.from({ length: maps }, () => space.take("f32", 1, 256));
  const embedding = space.take(embeddingDtype, config.vocabulary, config.hidden);
  const head = config.tiedEmbeddings ? embedding : space.take(embeddingDtype, config.vocabulary, config.hidden);
  const finalNorm = vector(config.hidden);
  const shapes = linearShapes(config);
  const linear = (layer: number, name: LinearName): LinearSlots => {
    const { out: rows, in: cols } = shapes[name];
    const hasBias = modulePath(name).startsWith("mlp.") ? config.mlpBias : config.attentionBias;
    const weight = takeWeight(space, rows, cols, storage(layer, name), mapSlots);
    return { rows, cols, weight, bias: hasBias ? vector(rows) : null };
  };
  const layers = Array.from(
    { length: config.layers },
    (_, layer): LayerSlots => ({
      attentionNorm: vector(config.hidden),
      feedForwardNorm: vector(config.hidden),
      linears: mapLinears((name) => linear(layer, name)),
    }),
  );
  return { embedding, head, finalNorm, maps: mapSlots, layers, bytes: space.bytes };
}

/** One value per linear of a block. */
export function mapLinears<T>(map: (name: LinearName) => T): Record<LinearName, T> {
  return Object.fromEntries(LINEAR_NAMES.map((name) => [name, map(name)])) as Record<LinearName, T>;
}

/** The tensor at a slot of `buffer`. */
export function tensorAt(buffer: DeviceBuffer, slot: Slot): Tensor {
  return matrix(buffer, slot.dtype, slot.rows, slot.cols, slot.offset);
}

export function takeWeight(
  space: Space,
  rows: number,
  cols: number,
  { format, map }: WeightStorage,
  maps: readonly Slot[],
): WeightSlots {
  if (format === "bf16" || format === "f32") return { format, values: space.take(format, rows, cols) };
  const blocks = Math.ceil((rows * cols) / QUANT_BLOCK);
  const codes = space.take("u8", 1, Math.ceil((rows * cols) / 2));
  if (map === null) return { format, codes, scales: { kind: "plain", absmax: space.take("f32", 1, blocks) } };
  const scaleCodes = space.take("u8", 1, blocks);
  const absmax2 = space.take("f32", 1, Math.ceil(blocks / SCALE_BLOCK));
  return { format, codes, scales: { kind: "double", codes: scaleCodes, absmax2, map: maps[map]! } };
}

/** Hands out aligned slots one after the other. */
export class Space {
  bytes = 0;

  take(dtype: DType, rows: number, cols: number): Slot {
    const offset = this.bytes;
    const bytes = rows * cols * BYTES_PER_ELEMENT[dtype];
    this.bytes = Math.ceil((offset + bytes) / ALIGNMENT) * ALIGNMENT;
    return { offset, dtype, rows, cols };
  }
}
