// How a training step fits the memory there is: keep everything if it fits, else drop what is cheap to compute again,
// layer by layer, else whole layers; the least recomputation that fits wins.

import type { Planner } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import type { AdapterParameters } from "./adapter-parameters.ts";
import type { ArenaPlan } from "./arena-plan.ts";
import { RANGES, STEP } from "./blocks/linear-group.ts";
import type { FrozenModel } from "./frozen-model.ts";
import type { Shape, Value } from "./graph.ts";
import { planProgram } from "./program.ts";
import { type BatchInputs, type DropoutSettings, type KeepLevel, type LossList, trainingList } from "./steps.ts";

export interface TrainingPlan {
  readonly list: LossList;
  readonly arena: ArenaPlan;
  readonly levels: readonly KeepLevel[];
}

/** Runtime attributes at which scratch is largest: every row at the largest rank. */
export function largestRuntime(adapter: AdapterParameters, shape: Shape): Record<string, unknown> {
  return { [RANGES.key]: [{ from: 0, to: shape.N, rank: adapter.rankMax, scale: 1 }], [STEP.key]: 0 };
}

/** Inputs and what is read back: they must survive the whole list. */
export function pinnedValues(inputs: BatchInputs, loss: Value): Set<Value> {
  const all = Object.values<Value | readonly Value[] | null>({ ...inputs }).flat();
  return new Set([...all.filter((value) => value !== null), loss]);
}

/** The plan of a step with the given level per layer. */
export function planAt(
  backend: Planner,
  model: FrozenModel,
  adapter: AdapterParameters,
  shape: Shape,
  levels: readonly KeepLevel[],
  dropout: DropoutSettings | null = null,
): TrainingPlan {
  const list = trainingList(model, adapter, levels, dropout);
  const arena = planProgram(
    backend,
    list.calls,
    pinnedValues(list.inputs, list.loss),
    shape,
    largestRuntime(adapter, shape),
  );
  return { list, arena, levels };
}

/**
 * The plan that recomputes least within `budgetBytes` (null: keep everything).
 * Throws MEMORY_EXCEEDED with the numbers if even full recomputation does not fit.
 */
export function planTraining(
  backend: Planner,
  model: FrozenModel,
  adapter: AdapterParameters,
  shape: Shape,
  budgetBytes: number | null,
  dropout: DropoutSettings | null = null,
): TrainingPlan {
  const layers = model.config.layers;
  const at = (drops: number): TrainingPlan => planAt(backend, model, adapter, shape, ladder(layers, drops), dropout);
  const most = at(0);
  if (budgetBytes === null || most.arena.bytes <= budgetBytes) return most;
  let low = 1;
  let high = 2 * layers;
  const least = at(high);
  if (least.arena.bytes > budgetBytes)
    throw new QdlError(
      "MEMORY_EXCEEDED",
      `a training step needs ${least.arena.bytes} bytes even when every layer is recomputed, expected at most ${budgetBytes}`,
      {
        hint: "Lower --batch or --seq, use more --accumulation instead, or raise --memory.",
        details: { needed: least.arena.bytes, budget: budgetBytes, keepingEverything: most.arena.bytes },
      },
    );
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at(middle).arena.bytes <= budgetBytes) high = middle;
    else low = middle + 1;
  }
  return at(high);
}

/** Layers by what they keep. */
export function countLevels(levels: readonly KeepLevel[]): Record<KeepLevel, number> {
  const counts = { keep: 0, "recompute-cheap": 0, "recompute-layer": 0 };
  for (const level of levels) counts[level]++;
  return counts;
}

/** Rung 0 keeps all; each of the next L rungs drops the cheap values of one more layer, each of the last L a whole layer. */
function ladder(layers: number, rung: number): KeepLevel[] {
  return Array.from({ length: layers }, (_, layer) =>
    rung - layers > layer ? "recompute-layer" : rung > layer ? "recompute-cheap" : "keep",
  );
}
