// Where every value of a list lives: liveness over the calls, values that may share memory in place are merged, then
// offsets are assigned largest first at the lowest place that is free for the whole lifetime. The result is a number of
// bytes that is known before the first step.

import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { inputsOf, outputsOf, signatureOf } from "./differentiate.ts";
import { type Call, rowsOf, type Shape, Value, valuesIn } from "./graph.ts";

const ALIGNMENT = 64;

export interface ArenaPlan {
  /** Byte offset of each value. */
  readonly offsets: ReadonlyMap<Value, number>;
  /** Offset of the scratch region that all calls share. */
  readonly scratchOffset: number;
  readonly scratchBytes: number;
  /** The arena's size, scratch included. */
  readonly bytes: number;
}

/** Values that share one place, and the calls from the first write to the last read. */
interface Place {
  readonly values: Value[];
  bytes: number;
  first: number;
  last: number;
}

export const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Bytes of a value at the given row counts. */
export function valueBytes(value: Value, shape: Shape): number {
  return align(rowsOf(value, shape) * value.cols * BYTES_PER_ELEMENT[value.dtype]);
}

/**
 * @param calls the whole list, in order
 * @param pinned values that live from before the first call to after the last (inputs, and what is read back)
 */
export function planArena(
  calls: readonly Call[],
  pinned: ReadonlySet<Value>,
  shape: Shape,
  scratchBytes: number,
): ArenaPlan {
  const places = mergeInPlace(calls, lifetimes(calls, pinned, shape), pinned);
  const { offsets, bytes } = assignOffsets(places);
  return { offsets, scratchOffset: bytes, scratchBytes: align(scratchBytes), bytes: bytes + align(scratchBytes) };
}

function lifetimes(calls: readonly Call[], pinned: ReadonlySet<Value>, shape: Shape): Map<Value, Place> {
  const places = new Map<Value, Place>();
  for (const value of pinned)
    places.set(value, { values: [value], bytes: valueBytes(value, shape), first: -1, last: calls.length });
  calls.forEach((entry, index) => {
    for (const value of [...outputsOf(entry), ...inputsOf(entry)]) {
      const place = places.get(value);
      if (!place) places.set(value, { values: [value], bytes: valueBytes(value, shape), first: index, last: index });
      else place.last = Math.max(place.last, index);
    }
  });
  return places;
}

/** Lets an output take over the memory of an input that dies in the same call, where the op allows it. */
function mergeInPlace(calls: readonly Call[], places: Map<Value, Place>, pinned: ReadonlySet<Value>): Set<Place> {
  calls.forEach((entry, index) => {
    for (const [key, argument] of Object.entries(entry.args)) {
      for (const donor of signatureOf(entry.op)[key]?.mayAlias ?? []) {
        if (!(argument instanceof Value)) continue;
        const output = places.get(argument)!;
        const input = valuesIn(entry.args[donor]).map((value) => places.get(value)!)[0];
        if (!input || input === output || output.first !== index || input.last !== index) continue;
        if (input.bytes !== output.bytes || output.values.some((v) => pinned.has(v))) continue;
        const usedOtherwise = Object.entries(entry.args).some(
          ([other, value]) => other !== donor && other !== key && valuesIn(value).some((v) => places.get(v) === input),
        );
        if (usedOtherwise) continue;
        input.values.push(...output.values);
        input.last = output.last;
        for (const value of output.values) places.set(value, input);
        break;
      }
    }
  });
  return new Set(places.values());
}

function assignOffsets(places: ReadonlySet<Place>): { offsets: Map<Value, number>; bytes: number } {
  const placed: { place: Place; offset: number }[] = [];
  const offsets = new Map<Value, number>();
  let total = 0;
  for (const place of [...places].sort((a, b) => b.bytes - a.bytes || a.first - b.first)) {
    const rivals = placed
      .filter(({ place: other }) => other.first <= place.last && place.first <= other.last)
      .sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const rival of rivals) {
      if (offset + place.bytes <= rival.offset) break;
      offset = Math.max(offset, rival.offset + rival.place.bytes);
    }
    placed.push({ place, offset });
    total = Math.max(total, offset + place.bytes);
    for (const value of place.values) offsets.set(value, offset);
  }
  return { offsets, bytes: total };
}
