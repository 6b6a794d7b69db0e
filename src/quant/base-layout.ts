// Where everything of a frozen base lies in its one device buffer. Pure: sizes in, offsets out, so that the bytes of a base
// are known before anything is allocated.

import { type LinearName, type LinearOptions, type ModelConfig, type NormName, normWidth } from "../model/config.ts";
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

export interface NormSlots {
  readonly weight: Slot;
  readonly bias: Slot | null;
}

export interface LayerSlots {
  readonly norms: Readonly<Partial<Record<NormName, NormSlots>>>;
  readonly linears: Readonly<Record<LinearName, LinearSlots>>;
}

export interface BaseLayout {
  readonly embedding: Slot;
  /** null: positions are not learned. */
  readonly positions: Slot | null;
  /** The embedding's slot when tied. */
  readonly head: Slot;
  readonly finalNorm: NormSlots;
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
  const positions = config.learnedPositions ? space.take(embeddingDtype, config.maxPositions, config.hidden) : null;
  const norm = (cols: number): NormSlots => ({
    weight: space.take(config.norm.storedLessOne ? "f32" : computeDtype, 1, cols),
    bias: config.norm.kind === "layer" ? vector(cols) : null,
  });
  const finalNorm = norm(config.hidden);
  const linear = (layer: number, { name, out: rows, in: cols, bias }: LinearOptions): LinearSlots => {
    const weight = takeWeight(space, rows, cols, storage(layer, name), mapSlots);
    return { rows, cols, weight, bias: bias ? vector(rows) : null };
  };
  const layers = Array.from(
    { length: config.layers },
    (_, layer): LayerSlots => ({
      norms: mapValues(config.block.norms, (_, name) => norm(normWidth(config, name))),
      linears: Object.fromEntries(config.block.linears.map((options) => [options.name, linear(layer, options)])),
    }),
  );
  return { embedding, positions, head, finalNorm, maps: mapSlots, layers, bytes: space.bytes };
}

/** The same keys with other values, absent ones left absent. */
export function mapValues<K extends string, V, T>(
  record: Readonly<Partial<Record<K, V>>>,
  map: (value: V, key: K) => T,
): Record<K, T> {
  const entries = Object.entries(record) as [K, V][];
  return Object.fromEntries(entries.map(([key, value]) => [key, map(value, key)])) as Record<K, T>;
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
