// One 4-bit weight in a device buffer of its own: where its parts lie.

import type { StoredTensor } from "../formats/safetensors.ts";
import type { FourBitFormat } from "../ops/code-books.ts";
import type { FourBitWeight } from "../ops/frozen-weight.ts";
import type { DeviceBuffer } from "../tensor/tensor.ts";
import { assembleWeight } from "./assemble.ts";
import { type Slot, Space, takeWeight, tensorAt, type WeightSlots } from "./base-layout.ts";
import type { StoredFourBit } from "./bitsandbytes.ts";
import type { FourBitTarget } from "./quantizer.ts";

export interface FourBitLayout {
  readonly slots: Exclude<WeightSlots, { values: Slot }>;
  /** f32 [1, 256] and f32 [1, 1] under double quantisation, else null: the map of scales and their mean. */
  readonly map: Slot | null;
  readonly offset: Slot | null;
  readonly bytes: number;
  /** What the quantiser writes to. */
  target(buffer: DeviceBuffer): FourBitTarget;
  /** What ops read; `offset` is the number that the quantiser left in `offset`, or the stored one. */
  weight(buffer: DeviceBuffer, offset: number): FourBitWeight;
}

export function layOutFourBit(
  { rows, cols }: { readonly rows: number; readonly cols: number },
  format: FourBitFormat,
  doubleQuant: boolean,
): FourBitLayout {
  const space = new Space();
  const map = doubleQuant ? space.take("f32", 1, 256) : null;
  const offset = doubleQuant ? space.take("f32", 1, 1) : null;
  const slots = takeWeight(space, rows, cols, { format, map: map && 0 }, map ? [map] : []);
  if ("values" in slots) throw new TypeError("a 4-bit weight was laid out as a dense one");
  const target = (buffer: DeviceBuffer): FourBitTarget => {
    const at = (slot: Slot) => tensorAt(buffer, slot);
    const { scales } = slots;
    const codes = at(slots.codes);
    if (scales.kind === "plain") return { format, codes, scales: { kind: "plain", absmax: at(scales.absmax) } };
    return {
      format,
      codes,
      scales: {
        kind: "double",
        codes: at(scales.codes),
        absmax2: at(scales.absmax2),
        map: at(scales.map),
        offset: at(offset!),
      },
    };
  };
  const weight = (buffer: DeviceBuffer, mean: number): FourBitWeight =>
    assembleWeight(buffer, rows, cols, slots, mean) as FourBitWeight;
  return { slots, map, offset, bytes: space.bytes, target, weight };
}

/** Which stored tensor goes where when a weight that is 4-bit already is copied to the bit. */
export function copiedParts({ codes, scales }: StoredFourBit, slots: FourBitLayout["slots"]): [StoredTensor, Slot][] {
  const pairs: [StoredTensor, Slot][] = [[codes, slots.codes]];
  if (scales.kind === "plain" && slots.scales.kind === "plain") pairs.push([scales.absmax, slots.scales.absmax]);
  if (scales.kind === "double" && slots.scales.kind === "double")
    pairs.push([scales.codes, slots.scales.codes], [scales.absmax2, slots.scales.absmax2]);
  return pairs;
}

/** The mean of all scales in the bytes of a whole buffer; 0 without double quantisation. */
export function storedOffset({ offset }: FourBitLayout, bytes: Uint8Array): number {
  return offset ? new DataView(bytes.buffer, bytes.byteOffset + offset.offset, 4).getFloat32(0, true) : 0;
}
