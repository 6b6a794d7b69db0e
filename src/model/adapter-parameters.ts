// What a block needs of an adapter: the A and B of a linear, or nothing where the linear is not adapted.

import type { LinearName } from "./config.ts";
import type { Parameter } from "./graph.ts";

export interface LinearAdapter {
  /** [R, K] */
  readonly a: Parameter;
  /** Bᵀ, [R, M] */
  readonly b: Parameter;
}

export interface AdapterParameters {
  /** R, columns of the saved products t. */
  readonly rankMax: number;
  linear(layer: number, name: LinearName): LinearAdapter | null;
}

/** The base alone. */
export const NO_ADAPTER: AdapterParameters = { rankMax: 1, linear: () => null };
