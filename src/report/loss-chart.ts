// Training loss over steps: one dot a step in the colour of its rank (single steps differ mostly by the rank they drew),
// and a smoothed line through all of them.

import { chart, fixed, linearAxis, path } from "./chart.ts";
import { type Child, type Element, h } from "./markup.ts";
import type { ReportStep } from "./report.ts";

/** Colours for ranks, from low to high; the page's style defines --rank-0 … --rank-6. */
const RANK_COLOURS = 7;
const MOST_DOTS = 800;
const MOST_LINE_POINTS = 300;
/** Share of the steps that a point of the smoothed line is the mean of. */
const SMOOTHING_WINDOW = 0.05;
/** Dots above this quantile would squeeze the rest into a corner; they are drawn at the top edge. */
const CUT_QUANTILE = 0.995;

export function lossChart(steps: readonly ReportStep[]): Element | null {
  if (steps.length < 2) return null;
  const losses = steps.map(({ loss }) => loss);
  const sorted = losses.toSorted((a, b) => a - b);
  const top = sorted[Math.floor((sorted.length - 1) * CUT_QUANTILE)]!;
  const x = linearAxis("x", "step", 0, steps.at(-1)!.step, String, 6);
  const y = linearAxis("y", "training loss", sorted[0]!, top, String);
  const smooth = thin(smoothed(steps), MOST_LINE_POINTS);
  const ranks = [...new Set(steps.map(({ rank }) => rank))].sort((a, b) => a - b);
  const edge = y.ticks.at(-1)!;
  const dots = thin(steps, MOST_DOTS).map(({ step, loss, rank }) =>
    h("circle", {
      class: `step rank-${colourOf(rank, ranks)}`,
      cx: fixed(x.at(step)),
      cy: fixed(y.at(Math.min(loss, edge))),
      r: 2.2,
    }),
  );
  const description = `From ${smooth[0]!.loss.toFixed(3)} at step ${smooth[0]!.step} to ${smooth.at(-1)!.loss.toFixed(3)} at step ${smooth.at(-1)!.step}, smoothed.`;
  const line = path(
    smooth.map(({ step, loss }) => [x.at(step), y.at(Math.min(loss, edge))]),
    "line",
  );
  return chart("loss-by-step", "Training loss by step", description, x, y, [dots, line]);
}

/** The ranks with their colours. */
export function rankLegend(steps: readonly ReportStep[]): Child {
  const ranks = [...new Set(steps.map(({ rank }) => rank))].sort((a, b) => a - b);
  const shown = ranks.length <= RANK_COLOURS ? ranks : [ranks[0]!, ranks.at(-1)!];
  return h(
    "p",
    { class: "legend" },
    "Rank of the step: ",
    shown.map((rank, i) => [
      i > 0 && shown !== ranks ? " … " : " ",
      h("span", { class: `swatch rank-${colourOf(rank, ranks)}` }, ""),
      `${rank} `,
    ]),
  );
}

/** Colours are spread evenly over the octaves of the ranks drawn. */
function colourOf(rank: number, ranks: readonly number[]): number {
  const low = Math.log2(ranks[0]!);
  const high = Math.log2(ranks.at(-1)!);
  return high === low ? RANK_COLOURS - 1 : Math.round(((Math.log2(rank) - low) / (high - low)) * (RANK_COLOURS - 1));
}

/** A centred mean: no lag. Near the ends the window shrinks on both sides alike. */
function smoothed(steps: readonly ReportStep[]): ReportStep[] {
  const reach = Math.max(1, Math.round((steps.length * SMOOTHING_WINDOW) / 2));
  const sums = [0];
  for (const { loss } of steps) sums.push(sums.at(-1)! + loss);
  return steps.map((step, i) => {
    const side = Math.min(reach, Math.max(1, i), Math.max(1, steps.length - 1 - i));
    const from = Math.max(0, i - side);
    const to = Math.min(steps.length, i + side + 1);
    return { ...step, loss: (sums[to]! - sums[from]!) / (to - from) };
  });
}

/** At most `count` of the items, evenly spread, the last one included. */
function thin<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))]!);
}
