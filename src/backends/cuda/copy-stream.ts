// Copies between the device's memory and the host's, beside the work: on a stream of their own, which waits for what was
// enqueued before a copy and which the work waits for only where a group is awaited. The copy engines do them, no kernel.

import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { addressOf } from "./buffer.ts";
import type { Driver } from "./driver.ts";
import { out64 } from "./native-calls.ts";

const EVENT_DISABLE_TIMING = 2;
const STREAM_NON_BLOCKING = 1;
/** Addresses that tell by themselves whose memory they are in. */
const MEMORY_UNIFIED = 4;

export class CopyStream {
  readonly #driver: Driver;
  /** Of the work. */
  readonly #stream: number;
  /** Of the copies; made at the first one. */
  #own = 0;
  #reached = 0;
  /** Events at the ends of groups. */
  readonly #ends = new Map<number, number>();
  /** Groups that nobody has awaited. */
  readonly #pending = new Set<number>();

  constructor(driver: Driver, stream: number) {
    this.#driver = driver;
    this.#stream = stream;
  }

  /** One copy, to be enqueued between `begin` and its end. */
  prepare(from: Tensor, to: Tensor): () => void {
    const { checked } = this.#driver;
    const size = BYTES_PER_ELEMENT[from.dtype];
    const [width, height] = [from.cols * size, from.rows];
    if (width === 0 || height === 0) return () => {};
    const dense = from.stride === from.cols && to.stride === to.cols;
    const [source, target] = [addressOf(from), addressOf(to)];
    if (dense || height === 1) return () => checked.memcpyBetween(target, source, width * height, this.#own);
    // CUDA_MEMCPY2D: x, y, kind of memory, host, device, array and pitch of the source, the same of the target, width, height.
    const side = (address: number, stride: number) => [0, 0, MEMORY_UNIFIED, 0, address, 0, stride * size];
    const words = [...side(source, from.stride), ...side(target, to.stride), width, height];
    const description = BigUint64Array.from(words, BigInt);
    return () => checked.memcpy2d(description, this.#own);
  }

  /** Enqueues copies behind all work so far. */
  begin(group: number, copies: () => void): void {
    const { checked } = this.#driver;
    if (this.#own === 0) {
      this.#own = out64((box) => checked.streamCreate(box, STREAM_NON_BLOCKING));
      this.#reached = this.#event();
    }
    checked.eventRecord(this.#reached, this.#stream);
    checked.streamWaitEvent(this.#own, this.#reached, 0);
    copies();
    const end = this.#ends.get(group) ?? this.#event();
    this.#ends.set(group, end);
    checked.eventRecord(end, this.#own);
    this.#pending.add(group);
  }

  /** All work from here on comes after the group's copies. */
  await(group: number): void {
    if (!this.#pending.delete(group)) return;
    this.#driver.checked.streamWaitEvent(this.#stream, this.#ends.get(group)!, 0);
  }

  /** The same for every group that is on its way: what comes in from outside a list asks for no group. */
  awaitAll(): void {
    for (const group of [...this.#pending]) this.await(group);
  }

  /** Waits for all copies, if the device still answers. */
  settle(): void {
    if (this.#own !== 0) this.#driver.raw.streamSynchronize(this.#own);
  }

  /** The streams must be idle or lost. */
  close(): void {
    const { raw } = this.#driver;
    for (const event of this.#ends.values()) raw.eventDestroy(event);
    this.#ends.clear();
    this.#pending.clear();
    if (this.#own === 0) return;
    this.settle();
    raw.eventDestroy(this.#reached);
    raw.streamDestroy(this.#own);
    this.#own = 0;
  }

  #event(): number {
    return out64((box) => this.#driver.checked.eventCreate(box, EVENT_DISABLE_TIMING));
  }
}
