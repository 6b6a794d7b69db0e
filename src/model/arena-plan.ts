// Where every value of a list lives: liveness over the calls, values that a kernel wishes side by side share a place, values
// that may share memory in place are merged, then offsets are assigned largest first at the lowest place that is free for
// the whole lifetime. The result is a number of bytes that is known before the first step.

import type { Wish } from "../backends/backend.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { inputsOf, outputsOf, signatureOf } from "./differentiate.ts";
import { type Call, rowsOf, type Shape, Value, valuesIn } from "./graph.ts";

const ALIGNMENT = 64;

/** Where the rows of a value lie. */
export interface Placement {
  /** Byte offset of the first row in the arena of the value's memory. */
  readonly offset: number;
  /** Elements from row to row. */
  readonly stride: number;
  /** Columns of each row behind the value that belong to no value. */
  readonly spare: number;
}

export interface Places {
  readonly placements: ReadonlyMap<Value, Placement>;
  /** Bytes of all values on the device. */
  readonly bytes: number;
  /** Bytes of all values in the host's memory. */
  readonly hostBytes: number;
}

export interface ArenaPlan {
  readonly placements: ReadonlyMap<Value, Placement>;
  /** Offset of the scratch region that all calls share. */
  readonly scratchOffset: number;
  readonly scratchBytes: number;
  /** The arena's size, scratch included. */
  readonly bytes: number;
  /** Size of the other arena, in the host's memory; 0: nothing waits there. */
  readonly hostBytes: number;
}

/** Column block of a place: values of one shape that follow each other in the same memory, from first write to last read. */
interface Block {
  readonly values: Value[];
  first: number;
  last: number;
  place: Place;
}

/** Blocks side by side in the same rows, then spare columns. */
interface Place {
  blocks: Block[];
  spare: number;
}

export const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Bytes of a value at the given row counts. */
export function valueBytes(value: Value, shape: Shape): number {
  return align(rowsOf(value, shape) * value.cols * BYTES_PER_ELEMENT[value.dtype]);
}

/**
 * @param calls the whole list, in order
 * @param wishes what the kernel of each call wishes of the places of its values
 * @param pinned values that live from before the first call to after the last (inputs, and what is read back)
 */
export function planPlaces(
  calls: readonly Call[],
  wishes: readonly (readonly Wish[])[],
  pinned: ReadonlySet<Value>,
  shape: Shape,
): Places {
  const blocks = lifetimes(calls, pinned);
  calls.forEach((entry, index) => {
    for (const wish of wishes[index]!) grant(wish, valuesIn(entry.args[wish.beside]), blocks);
  });
  mergeInPlace(calls, blocks, pinned);
  const placements = new Map<Value, Placement>();
  const bytesIn = (memory: Value["memory"]): number => {
    const values = [...blocks].filter(([value]) => value.memory === memory);
    return assignOffsets(new Set(values.map(([, { place }]) => place)), shape, placements);
  };
  return { placements, bytes: bytesIn("device"), hostBytes: bytesIn("host") };
}

export function withScratch(places: Places, scratchBytes: number): ArenaPlan {
  const { placements, bytes: scratchOffset, hostBytes } = places;
  const aligned = align(scratchBytes);
  return { placements, scratchOffset, scratchBytes: aligned, bytes: scratchOffset + aligned, hostBytes };
}

/** Whether each value starts where the rows of the one before end. */
export function areSideBySide(values: readonly Value[], placements: ReadonlyMap<Value, Placement>): boolean {
  return values.every((value, i) => {
    const before = values[i - 1];
    if (!before) return true;
    const [left, right] = [placements.get(before)!, placements.get(value)!];
    return right.stride === left.stride && right.offset === left.offset + before.cols * BYTES_PER_ELEMENT[before.dtype];
  });
}

function lifetimes(calls: readonly Call[], pinned: ReadonlySet<Value>): Map<Value, Block> {
  const blocks = new Map<Value, Block>();
  const add = (value: Value, first: number, last: number): void => {
    const place: Place = { blocks: [], spare: 0 };
    const block: Block = { values: [value], first, last, place };
    place.blocks.push(block);
    blocks.set(value, block);
  };
  for (const value of pinned) add(value, -1, calls.length);
  calls.forEach((entry, index) => {
    for (const value of [...outputsOf(entry), ...inputsOf(entry)]) {
      const block = blocks.get(value);
      if (!block) add(value, index, index);
      else block.last = Math.max(block.last, index);
    }
  });
  return blocks;
}

/** Puts values into one place, unless one of them has a place with others already: the first wish wins. */
function grant({ tailColumns }: Wish, values: readonly Value[], blocks: ReadonlyMap<Value, Block>): void {
  const wanted = values.map((value) => blocks.get(value)!);
  const [place] = wanted.map((block) => block.place);
  if (!place) return;
  const granted = place.blocks.length === wanted.length && place.blocks.every((block, i) => block === wanted[i]);
  if (!granted) {
    if (!wanted.every(isAlone) || new Set(wanted).size < wanted.length) return;
    place.blocks = wanted;
    for (const block of wanted) block.place = place;
  }
  place.spare = Math.max(place.spare, tailColumns);
}

const isAlone = ({ place }: Block): boolean => place.blocks.length === 1 && place.spare === 0;

/** Lets an output take over the memory of an input that dies in the same call, where the op allows it. */
function mergeInPlace(calls: readonly Call[], blocks: Map<Value, Block>, pinned: ReadonlySet<Value>): void {
  calls.forEach((entry, index) => {
    for (const [key, argument] of Object.entries(entry.args)) {
      for (const donor of signatureOf(entry.op)[key]?.mayAlias ?? []) {
        if (!(argument instanceof Value)) continue;
        const output = blocks.get(argument)!;
        const input = valuesIn(entry.args[donor]).map((value) => blocks.get(value)!)[0];
        if (!input || input === output || output.first !== index || input.last !== index) continue;
        if (!sameShape(input.values[0]!, argument) || output.values.some((v) => pinned.has(v))) continue;
        const usedOtherwise = Object.entries(entry.args).some(
          ([other, value]) => other !== donor && other !== key && valuesIn(value).some((v) => blocks.get(v) === input),
        );
        if (usedOtherwise || !(isAlone(output) || isAlone(input))) continue;
        // The one that lies alone moves to the other's place.
        if (isAlone(output)) takeOver(input, output, blocks);
        else takeOver(output, input, blocks);
        break;
      }
    }
  });
}

function takeOver(target: Block, source: Block, blocks: Map<Value, Block>): void {
  target.values.push(...source.values);
  target.first = Math.min(target.first, source.first);
  target.last = Math.max(target.last, source.last);
  for (const value of source.values) blocks.set(value, target);
}

const sameShape = (a: Value, b: Value): boolean =>
  a.rows === b.rows && a.cols === b.cols && a.dtype === b.dtype && a.memory === b.memory;

/** A place with its numbers. */
interface Extent {
  readonly place: Place;
  readonly stride: number;
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

function extentOf(place: Place, shape: Shape): Extent {
  const [value] = place.blocks[0]!.values;
  const stride = place.blocks.reduce((sum, { values }) => sum + values[0]!.cols, place.spare);
  const bytes = align(rowsOf(value!, shape) * stride * BYTES_PER_ELEMENT[value!.dtype]);
  const first = Math.min(...place.blocks.map((block) => block.first));
  const last = Math.max(...place.blocks.map((block) => block.last));
  return { place, stride, bytes, first, last };
}

/** Places everything in one arena, of which it returns the bytes. */
function assignOffsets(places: ReadonlySet<Place>, shape: Shape, placements: Map<Value, Placement>): number {
  const placed: { extent: Extent; offset: number }[] = [];
  let total = 0;
  const extents = [...places].map((place) => extentOf(place, shape));
  for (const extent of extents.sort((a, b) => b.bytes - a.bytes || a.first - b.first)) {
    let offset = 0;
    for (const { extent: other, offset: at } of placed) {
      if (other.first > extent.last || extent.first > other.last) continue;
      if (offset + extent.bytes <= at) break;
      offset = Math.max(offset, at + other.bytes);
    }
    // In the order of their offsets.
    const behind = placed.findLastIndex((other) => other.offset <= offset);
    placed.splice(behind + 1, 0, { extent, offset });
    total = Math.max(total, offset + extent.bytes);
    placeBlocks(extent, offset, placements);
  }
  return total;
}

function placeBlocks({ place, stride }: Extent, offset: number, placements: Map<Value, Placement>): void {
  let column = 0;
  for (const block of place.blocks) {
    const [{ cols, dtype }] = block.values as [Value];
    const spare = block === place.blocks.at(-1) ? place.spare : 0;
    const placement = { offset: offset + column * BYTES_PER_ELEMENT[dtype], stride, spare };
    for (const value of block.values) placements.set(value, placement);
    column += cols;
  }
}
