// An adapter that has shapes and no memory, to plan with.

import type { AdapterParameters } from "../model/adapter-parameters.ts";
import { linearOf } from "../model/config.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import { Parameter } from "../model/graph.ts";
import { phantomTensor } from "../model/phantom.ts";
import type { AdapterConfig } from "./config.ts";

/** @param read dtype of A and B as the linears read them */
export function phantomAdapter(
  { config }: FrozenModel,
  { rankMax, targets }: AdapterConfig,
  read: "bf16" | "f32",
): AdapterParameters {
  const parameter = (name: string, cols: number): Parameter =>
    new Parameter(name, phantomTensor(read, rankMax, cols), phantomTensor("f32", rankMax, cols));
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
