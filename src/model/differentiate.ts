// The backward list of a forward list, from each op's declared gradient rule. Walks the sections from last to first; for
// each it first recomputes the values that were not kept, then emits the ops' backwards in reverse.
//
// Who overwrites and who accumulates is the backward op's signature: an "out" gradient is written to fresh memory, an
// "acc" gradient is added to what an earlier (in time) contribution left there, or to zero. A sum hands the very same
// gradient to both of its terms (no copy): whoever accumulates into it must come after all who read it, and that is
// checked here.

import { OPS, type OpName } from "../ops/index.ts";
import type { GradientRule, TensorSpec } from "../ops/op.ts";
import { type Call, call, Parameter, type Section, substitute, Value, valuesIn } from "./graph.ts";

/** Signature of any op, keyed by argument. */
export function signatureOf(op: OpName): Readonly<Record<string, TensorSpec | undefined>> {
  return OPS[op].signature as Readonly<Record<string, TensorSpec | undefined>>;
}

/** Values that a call writes. */
export function outputsOf(entry: Call): Value[] {
  return Object.entries(entry.args).flatMap(([key, argument]) =>
    (signatureOf(entry.op)[key]?.access ?? "in") === "in" ? [] : valuesIn(argument),
  );
}

/** Values that a call reads, those it accumulates into included. */
export function inputsOf(entry: Call): Value[] {
  return Object.entries(entry.args).flatMap(([key, argument]) =>
    signatureOf(entry.op)[key]?.access === "out" ? [] : valuesIn(argument),
  );
}

export interface Differentiation {
  readonly sections: readonly Section[];
  /** Gradients that the forward already produced: value → its gradient. */
  readonly seeds: ReadonlyMap<Value, Value>;
  /** Values that are dropped after the forward and computed again before their section's backward. */
  readonly recompute: ReadonlySet<Value>;
}

/** The backward sections, in the order in which they run. */
export function differentiate({ sections, seeds, recompute }: Differentiation): Section[] {
  const gradients = new Gradients(sections, seeds);
  return sections.toReversed().map((section) => {
    const backward = section.calls.toReversed().flatMap((entry) => gradients.backwardOf(entry));
    const again = recomputation(section, backward, recompute);
    const substituted = backward.map((entry) => rename(entry, again.renamed));
    return { name: `${section.name} backward`, calls: [...again.calls, ...substituted] };
  });
}

/** The forward calls that restore what `backward` reads of the dropped values, writing to fresh values. */
function recomputation(section: Section, backward: readonly Call[], recompute: ReadonlySet<Value>) {
  const needed = new Set(backward.flatMap(inputsOf).filter((value) => recompute.has(value)));
  const calls: Call[] = [];
  for (const entry of section.calls.toReversed()) {
    const wanted = outputsOf(entry).filter((value) => needed.has(value));
    if (wanted.length === 0 || isNarrowProductOnly(entry, wanted)) continue;
    calls.unshift(entry);
    for (const value of inputsOf(entry)) if (recompute.has(value)) needed.add(value);
  }
  const renamed = new Map<Value, Value>();
  for (const value of calls.flatMap(outputsOf)) renamed.set(value, value.like(`${value.name}'`));
  // A kept value that is written again as a by-product must not replace the kept one in the backward.
  const restored = new Map([...renamed].filter(([value]) => recompute.has(value)));
  return { calls: calls.map((entry) => rename(entry, renamed, restored)), renamed: restored };
}

/** Linears are not run again for t = s·x·Aᵀ alone, a few columns: those are kept. */
function isNarrowProductOnly({ op, args }: Call, wanted: readonly Value[]): boolean {
  return op === "adaptedLinears" && !valuesIn(args.y).some((value) => wanted.includes(value));
}

/** A call with its values replaced: outputs by `outputs`, inputs by `inputs`. */
export function rename(
  entry: Call,
  outputs: ReadonlyMap<Value, Value>,
  inputs: ReadonlyMap<Value, Value> = outputs,
): Call {
  const args = Object.fromEntries(
    Object.entries(entry.args).map(([key, argument]) => {
      const map = (signatureOf(entry.op)[key]?.access ?? "in") === "in" ? inputs : outputs;
      return [key, substitute(argument, (symbol) => (symbol instanceof Value ? (map.get(symbol) ?? symbol) : symbol))];
    }),
  );
  return { op: entry.op, args };
}

/** The gradient of each forward value, as the walk discovers it. */
class Gradients {
  readonly #of: Map<Value, Value>;
  /** Values whose gradient matters: some parameter lies before them. */
  readonly #wanted: ReadonlySet<Value>;
  /** Forward values whose own backward has been emitted, so that nobody reads their gradient any more. */
  readonly #consumed = new Set<Value>();

  constructor(sections: readonly Section[], seeds: ReadonlyMap<Value, Value>) {
    this.#of = new Map(seeds);
    this.#wanted = dependents(sections);
  }

  backwardOf(entry: Call): Call[] {
    const rule = OPS[entry.op].gradient;
    const outputs = outputsOf(entry);
    const emitted = rule && outputs.some((value) => this.#of.has(value)) ? this.#apply(entry, rule) : [];
    for (const value of outputs) this.#consumed.add(value);
    return emitted;
  }

  #apply(entry: Call, rule: GradientRule | "passThrough"): Call[] {
    if (rule === "passThrough") return this.#passThrough(entry);
    const before: Call[] = [];
    const after: Call[] = [];
    const op = rule.op as OpName;
    let useful = false;
    const args: Record<string, unknown> = {};
    for (const [key, attribute] of Object.entries(entry.args))
      if (!(key in signatureOf(entry.op))) args[key] = attribute;
    for (const [key, from] of Object.entries(rule.args)) {
      if (typeof from === "string") {
        args[key] = entry.args[from];
        continue;
      }
      const spec = signatureOf(op)[key]!;
      args[key] = substituteGradient(entry.args[from.gradientOf], (symbol) => {
        if (spec.access === "in") return this.#read(symbol, entry);
        const target = this.#target(symbol, spec.access === "acc", before, after);
        useful ||= target !== null;
        return target;
      });
    }
    if (!useful) return [];
    return [...before, { op, args: { ...args, ...rule.attributes } }, ...after];
  }

  #read(symbol: Value | Parameter, entry: Call): Value {
    const gradient = symbol instanceof Value ? this.#of.get(symbol) : undefined;
    if (!gradient) throw new Error(`${entry.op}: no gradient reaches ${symbol.name}`);
    return gradient;
  }

  /** Where a backward op writes the gradient of `symbol`; null if nobody wants it. */
  #target(symbol: Value | Parameter, accumulates: boolean, before: Call[], after: Call[]): unknown {
    if (symbol instanceof Parameter) return symbol.gradient;
    if (!this.#wanted.has(symbol)) return null;
    const known = this.#of.get(symbol);
    if (known && accumulates) {
      this.#assertExclusive(symbol, known);
      return known;
    }
    const fresh = symbol.like(`∂${symbol.name}${known ? "+" : ""}`);
    if (known) {
      this.#assertExclusive(symbol, known);
      after.push(call("add", { a: known, b: fresh, y: known }));
      return fresh;
    }
    this.#of.set(symbol, fresh);
    if (accumulates) before.push(call("fill", { y: fresh, value: 0 }));
    return fresh;
  }

  #passThrough(entry: Call): Call[] {
    const [sum] = outputsOf(entry);
    const gradient = this.#of.get(sum!)!;
    // Handing it on is all the reading there is, so the terms may share it with the sum.
    this.#consumed.add(sum!);
    const calls: Call[] = [];
    for (const value of inputsOf(entry)) {
      if (!this.#wanted.has(value)) continue;
      const known = this.#of.get(value);
      if (!known) {
        this.#of.set(value, gradient);
        continue;
      }
      this.#assertExclusive(value, known);
      calls.push(call("add", { a: known, b: gradient, y: known }));
    }
    return calls;
  }

  /** A shared gradient may be added to only when no other value still has to read it. */
  #assertExclusive(symbol: Value, gradient: Value): void {
    for (const [value, other] of this.#of)
      if (other === gradient && value !== symbol && !this.#consumed.has(value))
        throw new Error(`the gradient of ${symbol.name} is shared with ${value.name}, which has not been read yet`);
  }
}

/** Like `substitute`, for the gradient of an argument: null stays null. */
function substituteGradient(argument: unknown, replace: (symbol: Value | Parameter) => unknown): unknown {
  if (argument instanceof Value || argument instanceof Parameter) return replace(argument);
  if (Array.isArray(argument)) return argument.map((entry) => substituteGradient(entry, replace));
  return null;
}

/** Values that some trained parameter feeds into. */
function dependents(sections: readonly Section[]): Set<Value> {
  const wanted = new Set<Value>();
  const holdsParameter = (argument: unknown): boolean =>
    Array.isArray(argument)
      ? argument.some(holdsParameter)
      : argument instanceof Parameter && argument.gradient !== null;
  for (const { calls } of sections)
    for (const entry of calls) {
      const depends =
        inputsOf(entry).some((value) => wanted.has(value)) || Object.values(entry.args).some(holdsParameter);
      if (depends) for (const value of outputsOf(entry)) wanted.add(value);
    }
  return wanted;
}
