// Scratch of one call, cut into matrices one after another.

import { BYTES_PER_ELEMENT, type DType } from "../../tensor/dtype.ts";
import type { DeviceBuffer, Tensor } from "../../tensor/tensor.ts";

/** What cuBLASLt likes best. */
const ALIGNMENT = 256;

/** Memory that nobody reads or writes: for measuring. */
const NOWHERE: DeviceBuffer = { bytes: Number.MAX_SAFE_INTEGER, label: "nowhere", disposed: false, dispose() {} };

export class Room {
  readonly #buffer: DeviceBuffer;
  readonly #from: number;
  #at: number;

  /** null: only counts. */
  constructor(scratch: Tensor | null) {
    this.#buffer = scratch?.buffer ?? NOWHERE;
    this.#from = aligned(scratch?.offset ?? 0);
    this.#at = this.#from;
  }

  /** Bytes taken so far. */
  get bytes(): number {
    return this.#at - this.#from;
  }

  take(dtype: DType, rows: number, cols: number, stride = cols): Tensor {
    const offset = this.#at;
    this.#at = aligned(offset + rows * stride * BYTES_PER_ELEMENT[dtype]);
    return { buffer: this.#buffer, offset, rows, cols, stride, dtype };
  }
}

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Bytes of scratch in which `furnish` finds its room, wherever the scratch starts. */
export function roomBytes(furnish: (room: Room) => unknown): number {
  const room = new Room(null);
  furnish(room);
  return room.bytes === 0 ? 0 : room.bytes + ALIGNMENT;
}
