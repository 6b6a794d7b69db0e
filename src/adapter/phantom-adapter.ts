// An adapter that has shapes and no memory, to plan with.

import type { AdapterParameters } from "../model/adapter-parameters.ts";
import { type FrozenModel, linearShapes } from "../model/frozen-model.ts";
import { Parameter } from "../model/graph.ts";
import { phantomTensor } from "../model/phantom.ts";
import type { AdapterConfig } from "./config.ts";

export function phantomAdapter(
  { config, computeDtype }: FrozenModel,
  { rankMax, targets }: AdapterConfig,
): AdapterParameters {
  const shapes = linearShapes(config);
  const parameter = (name: string, cols: number): Parameter =>
    new Parameter(name, phantomTensor(computeDtype, rankMax, cols), phantomTensor("f32", rankMax, cols));
  return {
    rankMax,
    linear: (layer, name) =>
      targets.includes(name)
        ? {
            a: parameter(`layers.${layer}.${name}.A`, shapes[name].in),
            b: parameter(`layers.${layer}.${name}.B`, shapes[name].out),
          }
        : null,
  };
}
