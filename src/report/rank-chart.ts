// Quality against rank: one point a rank with its 95 % interval, the base as a dashed line with its interval as a band.

import type { Estimate } from "../eval/task-metrics.ts";
import { type Axis, chart, fixed, linearAxis, PLOT, path, rankAxis } from "./chart.ts";
import { type Child, type Element, h } from "./markup.ts";
import { percent, type ReportRank } from "./report.ts";

export interface RankSeries {
  readonly id: string;
  readonly title: string;
  readonly of: (rank: ReportRank) => Estimate | null;
  readonly show: (value: number) => string;
  readonly tick: (value: number) => string;
}

export const LOSS_SERIES: RankSeries = {
  id: "loss-by-rank",
  title: "Held-out loss by rank (lower is better)",
  of: (rank) => rank.loss,
  show: (value) => value.toFixed(3),
  tick: (value) => String(value),
};

export const metricSeries = (title: string): RankSeries => ({
  id: "metric-by-rank",
  title,
  of: (rank) => rank.metric,
  show: percent,
  tick: (value) => `${Number((100 * value).toFixed(1))} %`,
});

interface Point {
  readonly rank: number;
  readonly estimate: Estimate;
}

/** Null if there is nothing to draw. */
export function rankChart(series: RankSeries, ranks: readonly ReportRank[]): Element | null {
  const points = ranks.flatMap((rank): Point[] => {
    const estimate = series.of(rank);
    return estimate ? [{ rank: rank.rank, estimate }] : [];
  });
  const base = points.find(({ rank }) => rank === 0);
  const adapted = points.filter(({ rank }) => rank > 0);
  if (adapted.length === 0) return null;
  const far = base !== undefined && isFar(base, adapted);
  const [low, high] = extent(far ? adapted : points);
  const x = rankAxis(adapted.map(({ rank }) => rank));
  const y = linearAxis("y", series.title, low, high, series.tick);
  const description = `${base ? `Base ${shown(series, base)}. ` : ""}${adapted.map((point) => `Rank ${point.rank}: ${shown(series, point)}`).join("; ")}.`;
  const marks: Child = [
    base ? (far ? farBase(series, base, low) : baseLine(series, base, y)) : null,
    path(
      adapted.map(({ rank, estimate }) => [x.at(rank), y.at(estimate.value)]),
      "line",
    ),
    adapted.map((point) => mark(series, point, x, y)),
  ];
  return chart(series.id, series.title, description, x, y, marks);
}

/** Where the base would squeeze the differences between ranks into less than this share of the height, it is named only. */
const FAR_SHARE = 0.35;

function isFar(base: Point, adapted: readonly Point[]): boolean {
  const [low, high] = extent(adapted);
  const [bottom, top] = extent([base, ...adapted]);
  return high - low < FAR_SHARE * (top - bottom);
}

function extent(points: readonly Point[]): [number, number] {
  return [
    Math.min(...points.map(({ estimate }) => estimate.low)),
    Math.max(...points.map(({ estimate }) => estimate.high)),
  ];
}

function farBase(series: RankSeries, { estimate }: Point, low: number): Child {
  const below = estimate.value < low;
  const text = `base ${series.show(estimate.value)} ${below ? "↓" : "↑"} outside this range`;
  return h(
    "text",
    { class: "note", x: PLOT.right, y: below ? PLOT.bottom - 10 : PLOT.top + 12, "text-anchor": "end" },
    text,
  );
}

const shown = (series: RankSeries, { estimate }: Point): string =>
  `${series.show(estimate.value)} (95 % interval ${series.show(estimate.low)} to ${series.show(estimate.high)})`;

function baseLine(series: RankSeries, base: Point, y: Axis): Child {
  const { value, low, high } = base.estimate;
  const at = fixed(y.at(value));
  // The label goes below the line when the line runs along the top.
  const labelAt = at < PLOT.top + 24 ? Math.max(at, fixed(y.at(low))) + 18 : Math.min(at, fixed(y.at(high))) - 7;
  return [
    h("rect", {
      class: "band",
      x: PLOT.left,
      width: PLOT.right - PLOT.left,
      y: fixed(y.at(high)),
      height: fixed(y.at(low) - y.at(high)),
    }),
    h("line", { class: "base", x1: PLOT.left, x2: PLOT.right, y1: at, y2: at }),
    h("text", { class: "note", x: PLOT.right, y: labelAt, "text-anchor": "end" }, `base ${series.show(value)}`),
  ];
}

function mark(series: RankSeries, point: Point, x: Axis, y: Axis): Child {
  const at = fixed(x.at(point.rank));
  const { value, low, high } = point.estimate;
  const whisker = (edge: number): Element =>
    h("line", { class: "whisker", x1: at - 4, x2: at + 4, y1: fixed(y.at(edge)), y2: fixed(y.at(edge)) });
  return h(
    "g",
    {},
    h("title", {}, `rank ${point.rank}: ${shown(series, point)}`),
    h("line", { class: "whisker", x1: at, x2: at, y1: fixed(y.at(low)), y2: fixed(y.at(high)) }),
    whisker(low),
    whisker(high),
    h("circle", { class: "dot", cx: at, cy: fixed(y.at(value)), r: 4.5 }),
  );
}
