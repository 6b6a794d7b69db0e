// How an adapter starts: A Kaiming-uniform (±1/√K, the default of the papers' code), B zero, so that the first forward is
// the base's. A's values are keyed by (tensor, row, column), not drawn in sequence: R = 32 starts as the prefix of R = 64.

import type { ModelConfig } from "../model/config.ts";
import { randomStream } from "../random/philox.ts";
import type { AdapterConfig } from "./config.ts";
import { adapterLayout } from "./parameters.ts";

/**
 * By tensor name, f32 [R, cols] row-major: one tensor after the other in the same memory, so that only the largest is ever
 * on the host. Values last until the next is asked for.
 */
export function* initialWeights(
  model: ModelConfig,
  config: AdapterConfig,
  seed: number,
): Generator<readonly [string, Float32Array]> {
  const layout = adapterLayout(model, config);
  const memory = new Float32Array(config.rankMax * Math.max(0, ...layout.map(({ cols }) => cols)));
  for (const { name, side, cols } of layout) {
    const values = memory.subarray(0, config.rankMax * cols).fill(0);
    if (side === "A") {
      const stream = randomStream(seed, `adapter/${name}`);
      const bound = 1 / Math.sqrt(cols);
      for (let i = 0; i < values.length; i++)
        values[i] = (2 * stream.uniform(i % cols, Math.floor(i / cols)) - 1) * bound;
    }
    yield [name, values];
  }
}
