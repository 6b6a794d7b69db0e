// An adapter that has shapes and no memory, to plan with.

import type { AdapterParameters } from "../model/adapter-parameters.ts";
import { linearOf } from "../model/config.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import { Parameter } from "../model/graph.ts";
import { phantomTensor } from "../model/phantom.ts";
import type { AdapterConfig } from "./config.ts";

export function phantomAdapter(
  { config, computeDtype }: FrozenModel,
  { rankMax, targets }: AdapterConfig,
): AdapterParameters {
  const parameter = (name: string, cols: number): Parameter =>
    new Parameter(name, phantomTensor(computeDtype, rankMax, cols), phantomTensor("f32", rankMax, cols));
  return {
    rankMax,
    linear: (layer, name) =>
      targets.includes(name)
        ? {
            a: parameter(`layers.${layer}.${name}.A`, linearOf(config, name).in),
            b: parameter(`layers.${layer}.${name}.B`, linearOf(config, name).out),
          }
        : null,
  };
}
