// What both charts share: the frame, linear and log2 axes, ticks, and numbers rounded for SVG.

import { type Child, type Element, h } from "./markup.ts";

export const WIDTH = 560;
export const HEIGHT = 340;
const LEFT = 64;
const RIGHT = 18;
const TOP = 16;
const BOTTOM = 48;

export interface Axis {
  readonly label: string;
  /** Position in SVG units of a value. */
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
  readonly show: (value: number) => string;
}

/** A linear axis with about `count` round ticks that cover low..high. */
export function linearAxis(
  direction: "x" | "y",
  label: string,
  low: number,
  high: number,
  show: (value: number) => string,
  count = 5,
): Axis {
  const step = niceStep(Math.max(high - low, Math.abs(high) * 1e-3, 1e-9) / count);
  const first = Math.floor(low / step + 1e-9) * step;
  const ticks: number[] = [];
  for (let i = 0; ; i++) {
    const tick = Number((first + i * step).toPrecision(12));
    ticks.push(tick);
    if (tick >= high - step * 1e-9) break;
  }
  return { label, at: positioner(direction, ticks[0]!, ticks.at(-1)!), ticks, show };
}

/** An x axis over ranks, one octave as wide as the next. */
export function rankAxis(ranks: readonly number[]): Axis {
  const place = positioner("x", Math.log2(Math.min(...ranks)) - 0.4, Math.log2(Math.max(...ranks)) + 0.4);
  const powers = ranks.filter((rank) => Number.isInteger(Math.log2(rank)));
  const last = Math.max(...ranks);
  const ticks = powers.includes(last) ? powers : [...powers, last];
  return { label: "rank", at: (rank) => place(Math.log2(rank)), ticks, show: String };
}

function positioner(direction: "x" | "y", low: number, high: number): (value: number) => number {
  const [from, to] = direction === "x" ? [LEFT, WIDTH - RIGHT] : [HEIGHT - BOTTOM, TOP];
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  const lead = rough / power;
  return (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 2.5 ? 2.5 : lead <= 5 ? 5 : 10) * power;
}

/** A whole chart: grid, axes, and what is drawn on them. `title` and `description` are for screen readers. */
export function chart(id: string, title: string, description: string, x: Axis, y: Axis, marks: Child): Element {
  return h(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": `${id}-title ${id}-desc`, class: "chart" },
    h("title", { id: `${id}-title` }, title),
    h("desc", { id: `${id}-desc` }, description),
    y.ticks.map((tick) => [
      h("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: fixed(y.at(tick)), y2: fixed(y.at(tick)) }),
      h("text", { class: "tick", x: LEFT - 8, y: fixed(y.at(tick) + 4), "text-anchor": "end" }, y.show(tick)),
    ]),
    x.ticks.map((tick) =>
      h(
        "text",
        { class: "tick", x: fixed(x.at(tick)), y: HEIGHT - BOTTOM + 20, "text-anchor": "middle" },
        x.show(tick),
      ),
    ),
    h("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
    h("text", { class: "label", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, x.label),
    marks,
  );
}

/** A line through points. */
export function path(points: readonly (readonly [number, number])[], className: string): Element {
  const d = points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${fixed(x)} ${fixed(y)}`).join("");
  return h("path", { class: className, d });
}

/** Tenths of an SVG unit are below what a screen shows. */
export const fixed = (value: number): number => Math.round(value * 10) / 10;

export const PLOT = { left: LEFT, right: WIDTH - RIGHT, top: TOP, bottom: HEIGHT - BOTTOM } as const;
