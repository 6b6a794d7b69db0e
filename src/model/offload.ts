// Activations that wait in the host's memory: copied there behind a layer's forward, brought back ahead of its backward.
// The copies run beside the work of the layers in between, so they cost no time as long as the bus keeps up.

import { inputsOf } from "./differentiate.ts";
import { type Call, call, type Section, substitute, Value } from "./graph.ts";

export interface Offloading {
  /** In the order in which they run. */
  readonly forward: readonly Section[];
  /** In the order in which they run: that of the last forward section comes first. */
  readonly backward: readonly Section[];
  /** By index of a forward section: what may wait in the host's memory until its backward, which alone reads it. */
  readonly waiting: ReadonlyMap<number, readonly Value[]>;
  /** Sections that the copies of one have time for. */
  readonly distance: number;
}

/** Calls around one section. */
interface Around {
  /** Copies that must be over. */
  readonly awaited: Call[];
  /** Copies that begin. */
  readonly begun: Call[];
}

/** All calls in order, with the copies between them. */
export function offload({ forward, backward, waiting, distance }: Offloading): Call[] {
  const last = forward.length - 1;
  const calls = backward.map((section) => section.calls).toReversed();
  const around = (): Around[] => forward.map(() => ({ awaited: [], begun: [] }));
  const [after, before] = [around(), around()];
  for (const [i, candidates] of waiting) {
    const read = new Set(calls[i]!.flatMap(inputsOf));
    const values = candidates.filter((value) => read.has(value));
    if (values.length === 0) continue;
    const away = values.map((value) => value.like(`${value.name} (host)`, "host"));
    const back = values.map((value) => value.like(`${value.name} (back)`));
    const far = Math.min(i + distance, last);
    after[i]!.begun.push(call("startCopies", { xs: values, ys: away, group: i }));
    after[far]!.awaited.push(call("awaitCopies", { held: [...values, ...away], group: i }));
    before[far]!.begun.push(call("startCopies", { xs: away, ys: back, group: i }));
    before[i]!.awaited.push(call("awaitCopies", { held: [...away, ...back], group: i }));
    const renamed = new Map(values.map((value, at) => [value, back[at]!]));
    calls[i] = calls[i]!.map((entry) => rename(entry, renamed));
  }
  return [
    ...forward.flatMap((section, i) => [...section.calls, ...after[i]!.awaited, ...after[i]!.begun]),
    ...calls
      .map((list, i) => [...before[i]!.awaited, ...before[i]!.begun, ...list])
      .toReversed()
      .flat(),
  ];
}

function rename({ op, args }: Call, renamed: ReadonlyMap<Value, Value>): Call {
  const replace = (argument: unknown) =>
    substitute(argument, (symbol) => (symbol instanceof Value ? (renamed.get(symbol) ?? symbol) : symbol));
  return { op, args: Object.fromEntries(Object.entries(args).map(([key, argument]) => [key, replace(argument)])) };
}
