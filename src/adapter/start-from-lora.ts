// A run that goes on from a LoRA: its directions, sorted by singular values, become the first rows; the rest start as ever
// (A random, B zero), so that the first forward at the largest rank is the LoRA's.

import type { OpenPeftAdapter } from "../formats/peft.ts";
import type { ModelConfig } from "../model/config.ts";
import { scaleAt } from "./config.ts";
import { nestedModules } from "./nested-lora.ts";
import type { Adapter } from "./parameters.ts";

/** Whether the rows can mean the same at every rank of a run: with a scale that depends on the rank they could at one alone. */
export const startsAlikeAtEveryRank = ({ config }: Pick<Adapter, "config">): boolean =>
  config.mode === "fixed" || config.scaleRule === "alpha/R" || config.scaleRule === "one";

/**
 * Overwrites the first rows of an initialised adapter whose targets and ranks have room for the LoRA.
 * Throws ADAPTER_INVALID, TENSOR_NONFINITE.
 */
export async function startFromLora(adapter: Adapter, peft: OpenPeftAdapter, model: ModelConfig): Promise<void> {
  const byName = new Map(adapter.tensors.map((tensor) => [tensor.name, tensor]));
  const share = 1 / Math.sqrt(scaleAt(adapter.config, adapter.rankMax));
  for await (const { layer, linear, a, bTransposed } of nestedModules(peft, model))
    for (const [side, rows] of [
      ["A", a],
      ["B", bTransposed],
    ] as const) {
      const tensor = byName.get(`layers.${layer}.${linear}.${side}`)!;
      const all = (await adapter.download(tensor.master)).slice();
      all.set(rows.map((value) => share * value));
      adapter.setWeights(tensor, all);
    }
}
