// Bytes to and from the device through page-locked host memory: only from there does the driver copy by itself, in the
// order of the stream, while the host goes on. The blocks belong to the process and are locked while a backend is open.

import { setImmediate, setTimeout } from "node:timers/promises";
import { type NativeBlock, nativeBlock } from "../native.ts";
import { type Driver, NOT_READY } from "./driver.ts";
import { out64 } from "./native-calls.ts";

const WRITE_BLOCK_BYTES = 4 << 20;
const WRITE_BLOCKS = 4;
/** The smallest block for reading; larger ones are powers of two. */
const READ_BLOCK_BYTES = 1 << 20;
const ALIGNMENT = 256;
/** Events without time stamps are the cheaper ones. */
const EVENT_DISABLE_TIMING = 2;
/** Around the end of a wait, so long before and after, it looks again as soon as the event loop has nothing else to do; else once a millisecond. */
const EAGER_MS = 2;

/** Blocks that no open backend uses, by size. A view of native memory must be made once only, so they are kept. */
const idle = new Map<number, NativeBlock[]>();

interface LockedBlock extends NativeBlock {
  readonly event: number;
  /** The event was recorded and nobody has waited for it. */
  pending: boolean;
}

export class Transfers {
  readonly #driver: Driver;
  readonly #stream: number;
  readonly #writing: LockedBlock[] = [];
  readonly #locked: LockedBlock[] = [];
  /** Blocks for reading that no read uses now. */
  readonly #readable: LockedBlock[] = [];
  /** How long the last wait for so many bytes took: steps of one kind take about as long. */
  readonly #usualMs = new Map<number, number>();
  #current = 0;
  #used = 0;

  constructor(driver: Driver, stream: number) {
    this.#driver = driver;
    this.#stream = stream;
  }

  /** Enqueues a copy of `bytes`, which may change as soon as this returns. No graph can hold it. */
  write(address: number, bytes: Uint8Array): void {
    while (this.#writing.length < WRITE_BLOCKS) this.#writing.push(this.#lock(WRITE_BLOCK_BYTES));
    for (let at = 0; at < bytes.byteLength; ) {
      if (this.#used >= WRITE_BLOCK_BYTES) this.#nextBlock();
      const block = this.#writing[this.#current]!;
      const count = Math.min(WRITE_BLOCK_BYTES - this.#used, bytes.byteLength - at);
      block.view.set(bytes.subarray(at, at + count), this.#used);
      this.#driver.checked.memcpyToDevice(address + at, block.address + this.#used, count, this.#stream);
      this.#used += Math.ceil(count / ALIGNMENT) * ALIGNMENT;
      at += count;
    }
  }

  /** Bytes as they are after all that is enqueued now. The event loop goes on while the device works. */
  async read(address: number, bytes: number): Promise<Uint8Array> {
    const block = this.#takeReadable(bytes);
    this.#driver.checked.memcpyToHost(block.address, address, bytes, this.#stream);
    this.#driver.checked.eventRecord(block.event, this.#stream);
    await this.#reached(block.event, bytes);
    const out = block.view.slice(0, bytes);
    this.#readable.push(block);
    return out;
  }

  /** Unlocks the blocks. The stream must be idle or lost. */
  close(): void {
    for (const block of this.#locked) {
      this.#driver.raw.eventDestroy(block.event);
      this.#driver.raw.memHostUnregister(block.address);
      const size = block.view.byteLength;
      idle.set(size, [...(idle.get(size) ?? []), { address: block.address, view: block.view }]);
    }
    for (const list of [this.#locked, this.#writing, this.#readable]) list.length = 0;
  }

  #nextBlock(): void {
    const full = this.#writing[this.#current]!;
    this.#driver.checked.eventRecord(full.event, this.#stream);
    full.pending = true;
    this.#current = (this.#current + 1) % WRITE_BLOCKS;
    this.#used = 0;
    const next = this.#writing[this.#current]!;
    if (next.pending) this.#driver.checked.eventSynchronize(next.event);
    next.pending = false;
  }

  #takeReadable(bytes: number): LockedBlock {
    let size = READ_BLOCK_BYTES;
    while (size < bytes) size *= 2;
    const at = this.#readable.findIndex((block) => block.view.byteLength === size);
    return at < 0 ? this.#lock(size) : this.#readable.splice(at, 1)[0]!;
  }

  #lock(bytes: number): LockedBlock {
    const { address, view } = idle.get(bytes)?.pop() ?? nativeBlock(bytes);
    this.#driver.checked.memHostRegister(address, bytes, 0);
    const event = out64((box) => this.#driver.checked.eventCreate(box, EVENT_DISABLE_TIMING));
    const block = { address, view, event, pending: false };
    this.#locked.push(block);
    return block;
  }

  async #reached(event: number, bytes: number): Promise<void> {
    const began = performance.now();
    const usual = this.#usualMs.get(bytes) ?? 0;
    for (;;) {
      const code = this.#driver.raw.eventQuery(event);
      const waited = performance.now() - began;
      if (code === 0) {
        this.#usualMs.set(bytes, waited);
        return;
      }
      if (code !== NOT_READY) this.#driver.fail("eventQuery", code);
      if (Math.abs(waited - usual) < EAGER_MS) await setImmediate();
      else await setTimeout(1);
    }
  }
}
