// What the bus to the host's memory carries beside the work, as the plan counts on it.

import type { DeviceRates } from "../backends/backend.ts";
import type { ModelConfig } from "./config.ts";
import { blockWeights } from "./useful-flops.ts";

/** Of what a bus reaches at best. */
const SHARE = 0.9;

/**
 * Bytes of each row that the bus carries while a layer's forward runs, which is shorter than its backward: both grow with the
 * rows. Without rates nothing is known to hold copies up.
 */
export function rowBytesPerLayer(rates: DeviceRates | null, config: ModelConfig): number {
  if (!rates) return Number.POSITIVE_INFINITY;
  const seconds = (2 * blockWeights(config)) / config.layers / rates.flopsPerSecond;
  return SHARE * rates.busBytesPerSecond * seconds;
}

/** Copies one after another, in layers' time. */
export class BusClock {
  readonly #rowBytesPerLayer: number;
  #free = 0;

  constructor(perLayer: number) {
    this.#rowBytesPerLayer = perLayer;
  }

  /** When a copy of so many bytes a row would be over that is begun at `time`. */
  endOf(time: number, rowBytes: number): number {
    return Math.max(this.#free, time) + rowBytes / this.#rowBytesPerLayer;
  }

  /** Begins it; returns when it is over. */
  begin(time: number, rowBytes: number): number {
    this.#free = this.endOf(time, rowBytes);
    return this.#free;
  }
}
