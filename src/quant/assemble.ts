// The frozen base as views of one buffer that holds it.

import type { LinearName } from "../model/config.ts";
import type { FrozenLayer, FrozenLinear, FrozenModel, FrozenNorm } from "../model/frozen-model.ts";
import type { FrozenWeight } from "../ops/frozen-weight.ts";
import type { DeviceBuffer } from "../tensor/tensor.ts";
import {
  type BaseLayout,
  type LinearSlots,
  mapValues,
  type NormSlots,
  type Slot,
  tensorAt,
  type WeightSlots,
} from "./base-layout.ts";

/** Offsets of double quantisation by layer and linear; absent for other weights. */
export type Offsets = readonly ReadonlyMap<LinearName, number>[];

/** Views of `buffer`, which is laid out by `layout`. */
export function assemble(
  buffer: DeviceBuffer,
  layout: BaseLayout,
  offsets: Offsets,
): Pick<FrozenModel, "embedding" | "positions" | "head" | "finalNorm" | "layers"> {
  const at = (slot: Slot) => tensorAt(buffer, slot);
  const norm = ({ weight, bias }: NormSlots): FrozenNorm => ({ weight: at(weight), bias: bias && at(bias) });
  const embedding = at(layout.embedding);
  const layers = layout.layers.map((slots, i): FrozenLayer => {
    const linear = ({ weight, bias, rows, cols }: LinearSlots, name: LinearName): FrozenLinear => {
      const offset = offsets[i]?.get(name) ?? 0;
      return { weight: assembleWeight(buffer, rows, cols, weight, offset), bias: bias && at(bias) };
    };
    return { norms: mapValues(slots.norms, norm), linears: mapValues(slots.linears, linear) };
  });
  const head = layout.head === layout.embedding ? embedding : at(layout.head);
  const positions = layout.positions && at(layout.positions);
  return { embedding, positions, head, finalNorm: norm(layout.finalNorm), layers };
}

/** A weight as views of `buffer`; `offset` is that of double quantisation. */
export function assembleWeight(
  buffer: DeviceBuffer,
  rows: number,
  cols: number,
  slots: WeightSlots,
  offset: number,
): FrozenWeight {
  const at = (slot: Slot) => tensorAt(buffer, slot);
  if ("values" in slots) return { format: slots.format, rows, cols, values: at(slots.values) };
  const { format, scales } = slots;
  const codes = at(slots.codes);
  if (scales.kind === "plain")
    return { format, rows, cols, codes, scales: { kind: "plain", absmax: at(scales.absmax) } };
  const { absmax2, map } = scales;
  return {
    format,
    rows,
    cols,
    codes,
    scales: { kind: "double", codes: at(scales.codes), absmax2: at(absmax2), map: at(map), offset },
  };
}
