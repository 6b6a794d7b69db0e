// How a training step fits the memory there is: keep everything if it fits, else drop what is cheap to compute again, layer
// by layer, else give up whole layers: to the host's memory as far as the bus carries them while others are computed, else
// to being computed again.

import type { DeviceRates, Planner } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import type { AdapterParameters } from "./adapter-parameters.ts";
import type { ArenaPlan } from "./arena-plan.ts";
import { RANGES, STEP } from "./blocks/linear-group.ts";
import { rowBytesPerLayer } from "./bus.ts";
import type { FrozenModel } from "./frozen-model.ts";
import { inputsAway, ladder, recomputed, type Way, wholesAway } from "./give-up.ts";
import { rowBytesOf, type Shape, type Value } from "./graph.ts";
import { planProgram } from "./program.ts";
import {
  type BatchInputs,
  type DropoutSettings,
  KEEP_LEVELS,
  type KeepLevel,
  type LossList,
  trainingList,
} from "./steps.ts";

/**
 * Whether activations may wait in the host's memory. `auto`: where memory is short and the bus carries them while others are
 * computed. `always`: the input of every layer does, and the rest is computed again: the least memory there is.
 */
export const OFFLOAD_CHOICES = ["auto", "never", "always"] as const;
export type OffloadChoice = (typeof OFFLOAD_CHOICES)[number];

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
  const list = trainingList(model, adapter, levels, dropout, rowBytesPerLayer(backend.rates, model.config));
  const arena = planProgram(
    backend,
    list.calls,
    pinnedValues(list.inputs, list.loss),
    shape,
    largestRuntime(adapter, shape),
  );
  return { list, arena, levels };
}

export interface PlanOptions {
  /** The most that the arena may take; null: all it needs. */
  readonly budgetBytes: number | null;
  readonly offload?: OffloadChoice;
  /** The most that activations may take of the host's memory. Default: any number of bytes. */
  readonly hostBytes?: number;
  readonly dropout?: DropoutSettings | null;
}

/**
 * The plan that costs least within the budget: everything kept, else what is cheap computed again, layer by layer, else whole
 * layers given up, as few as possible. Throws MEMORY_EXCEEDED with the numbers if no way fits.
 */
export function planTraining(
  backend: Planner,
  model: FrozenModel,
  adapter: AdapterParameters,
  shape: Shape,
  options: PlanOptions,
): TrainingPlan {
  const { budgetBytes, offload = "never", hostBytes = Number.POSITIVE_INFINITY, dropout = null } = options;
  const budget = budgetBytes ?? Number.POSITIVE_INFINITY;
  const { layers } = model.config;
  const at = (levels: readonly KeepLevel[]): TrainingPlan => planAt(backend, model, adapter, shape, levels, dropout);
  const fits = ({ arena }: TrainingPlan): boolean => arena.bytes <= budget && arena.hostBytes <= hostBytes;
  const most = at(ladder(layers, 0, recomputed));
  if (offload !== "always" && fits(most)) return most;
  const ways = waysToGiveUp(offload, backend.rates, model, at);
  const ends = ways.map((way) => ({ way, end: at(ladder(layers, 2 * layers, way)) }));
  const chosen = ends.find(({ end }) => fits(end));
  if (!chosen) {
    const arenas = ends.map(({ end }) => end.arena);
    throw exceeded(
      arenas.reduce((a, b) => (b.bytes < a.bytes ? b : a)),
      most.arena,
      budget,
      hostBytes,
    );
  }
  if (offload === "always") return chosen.end;
  return leastRung(2 * layers, chosen.end, fits, (rung) => at(ladder(layers, rung, chosen.way)));
}

/** The plan at the first rung of a ladder that fits, up to the last, which does. */
function leastRung(
  last: number,
  end: TrainingPlan,
  fits: (plan: TrainingPlan) => boolean,
  at: (rung: number) => TrainingPlan,
): TrainingPlan {
  let [low, high, best] = [1, last, end];
  while (low < high) {
    const middle = (low + high) >> 1;
    const plan = at(middle);
    if (fits(plan)) [high, best] = [middle, plan];
    else low = middle + 1;
  }
  return best;
}

function exceeded(least: ArenaPlan, most: ArenaPlan, budget: number, hostBytes: number): QdlError {
  const host = least.bytes <= budget;
  const message = host
    ? `a training step needs ${least.hostBytes} bytes of the host's memory for its activations, expected at most ${hostBytes}`
    : `a training step needs ${least.bytes} bytes even when every layer is recomputed, expected at most ${budget}`;
  return new QdlError("MEMORY_EXCEEDED", message, {
    hint: host
      ? "Lower --batch or --seq, use more --accumulation instead, or --offload-activations auto."
      : "Lower --batch or --seq, use more --accumulation instead, or raise --memory.",
    details: { needed: least.bytes, budget, keepingEverything: most.bytes, neededOfHost: least.hostBytes, hostBytes },
  });
}

/** Layers by what they keep. */
export function countLevels(levels: readonly KeepLevel[]): Record<KeepLevel, number> {
  const counts = Object.fromEntries(KEEP_LEVELS.map((level) => [level, 0])) as Record<KeepLevel, number>;
  for (const level of levels) counts[level]++;
  return counts;
}

/** The ways to try, in order: what costs least time first. */
function waysToGiveUp(
  offload: OffloadChoice,
  rates: DeviceRates | null,
  { config }: FrozenModel,
  at: (levels: readonly KeepLevel[]) => TrainingPlan,
): readonly Way[] {
  const { layers } = config;
  if (offload === "always") return [inputsAway(layers)];
  if (offload === "never" || !rates || layers < 2) return [recomputed];
  const perLayer = rowBytesPerLayer(rates, config);
  const rowBytes = (level: KeepLevel): number =>
    offloadedRowBytes(at([level, ...Array<KeepLevel>(layers - 1).fill("recompute-cheap")]));
  const [wholeRowBytes, inputRowBytes] = [rowBytes("offload"), rowBytes("offload-input")];
  if (perLayer <= inputRowBytes) return [recomputed, inputsAway(layers)];
  const load = { layers, rowBytesPerLayer: perLayer, wholeRowBytes, inputRowBytes };
  return [wholesAway(load), inputsAway(layers), recomputed];
}

const offloadedRowBytes = ({ arena }: TrainingPlan): number =>
  [...arena.placements.keys()].reduce((sum, value) => sum + (value.memory === "host" ? rowBytesOf(value) : 0), 0);
