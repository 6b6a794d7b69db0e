// The endless line of sequences that a run takes its steps from: epoch after epoch, each in its own seeded order.

import { permutation, randomStream } from "../random/philox.ts";
import type { BatchConfig, Sample } from "./batch.ts";
import { pack } from "./packing.ts";

/** Samples that are laid end to end in one sequence, as indexes. Without packing always one. */
export type Sequence = readonly number[];

/** Epochs whose sequences are kept. A step rarely reaches over more than two. */
const KEPT = 3;

/** The order of an epoch depends on (seed, epoch) only; with packing, where an epoch begins depends on those before. */
export class EpochLine {
  readonly #samples: readonly Sample[];
  readonly #config: Pick<BatchConfig, "seq" | "packing">;
  readonly #seed: number;
  readonly #kept = new Map<number, readonly Sequence[]>();
  /** With packing: the place in the line at which each epoch begins, as far as known. */
  readonly #first: number[] = [0];

  constructor(samples: readonly Sample[], config: Pick<BatchConfig, "seq" | "packing">, seed: number) {
    this.#samples = samples;
    this.#config = config;
    this.#seed = seed;
  }

  /** `count` sequences from a place of the line on. */
  take(place: number, count: number): Sequence[] {
    const taken: Sequence[] = [];
    for (let epoch = this.epochAt(place); taken.length < count; epoch++) {
      const from = place + taken.length - this.start(epoch);
      taken.push(...this.sequences(epoch).slice(from, from + count - taken.length));
    }
    return taken;
  }

  /** The epoch that a place of the line belongs to. */
  epochAt(place: number): number {
    if (!this.#config.packing) return Math.floor(place / this.#samples.length);
    while (this.#first.at(-1)! <= place) this.start(this.#first.length);
    return this.#first.findLastIndex((first) => first <= place);
  }

  /** The place at which an epoch begins. */
  start(epoch: number): number {
    if (!this.#config.packing) return epoch * this.#samples.length;
    for (let known = this.#first.length; known <= epoch; known++) {
      this.#first.push(this.#first[known - 1]! + this.sequences(known - 1).length);
    }
    return this.#first[epoch]!;
  }

  /** All sequences of an epoch, in order. */
  sequences(epoch: number): readonly Sequence[] {
    const kept = this.#kept.get(epoch);
    if (kept !== undefined) return kept;
    const order = permutation(randomStream(this.#seed, `data-order/${epoch}`), this.#samples.length);
    const sequences = this.#config.packing
      ? pack(this.#samples, order, this.#config.seq)
      : Array.from(order, (index) => [index]);
    this.#kept.set(epoch, sequences);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    return sequences;
  }
}
