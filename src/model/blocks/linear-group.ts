// The linears of a block, each with its adapter: one call for all that read the same input. With dropout the adapters take
// a path of their own, since each linear has its own mask.

import type { RankRange } from "../../ops/rank-range.ts";
import type { LinearAdapter } from "../adapter-parameters.ts";
import { type LinearName, linearOf } from "../config.ts";
import type { FrozenLinear } from "../frozen-model.ts";
import { call, Runtime, type Value } from "../graph.ts";
import type { BlockBuilder } from "./block-builder.ts";

/** Rank and scale of each row range; given when the list runs. */
export const RANGES = new Runtime<readonly RankRange[]>("ranges");

/** Optimizer step, for the masks of dropout. */
export const STEP = new Runtime<number>("step");

interface Member {
  readonly name: LinearName;
  readonly frozen: FrozenLinear;
  readonly adapter: LinearAdapter | null;
}

/** The outputs of `names`, which all read `input`. */
export function linears(block: BlockBuilder, input: Value, names: readonly LinearName[]): Value[] {
  const { adapter, layer, dropout } = block.input;
  const members = names.map((name) => ({
    name,
    frozen: block.frozen.linears[name]!,
    adapter: adapter.linear(layer, name),
  }));
  return dropout ? withDropout(block, input, members) : group(block, input, members);
}

function group(block: BlockBuilder, x: Value, members: readonly Member[], suffix = ""): Value[] {
  const { model, adapter } = block.input;
  const y = members.map(({ name }) => block.value(name + suffix, linearOf(model.config, name).out));
  block.emit(
    call("adaptedLinears", {
      x,
      weights: members.map(({ frozen }) => frozen.weight),
      biases: members.map(({ frozen }) => frozen.bias),
      a: members.map((member) => member.adapter?.a ?? null),
      b: members.map((member) => member.adapter?.b ?? null),
      t: members.map((member) => (member.adapter ? block.value(`${member.name}.t`, adapter.rankMax) : null)),
      y,
      ranges: RANGES,
    }),
  );
  return y;
}

function withDropout(block: BlockBuilder, input: Value, members: readonly Member[]): Value[] {
  const bare = members.map((member) => ({ ...member, adapter: null }));
  const base = group(block, input, bare, ".base");
  return members.map((member, i) =>
    member.adapter ? block.sum(base[i]!, adapterAlone(block, input, member), member.name) : base[i]!,
  );
}

/** The adapter of one linear on its own dropped-out view of the input. */
function adapterAlone(block: BlockBuilder, input: Value, { name, adapter }: Member): Value {
  const { layer, model, dropout } = block.input;
  const { p, seed, rows } = dropout!;
  const view = block.cheapValue(`${name}.dropped`, input.cols);
  const stream = `dropout/layers.${layer}.${name}`;
  block.emit(call("dropout", { x: input, rows, y: view, p, seed, stream, step: STEP }));
  const { in: cols, out } = linearOf(model.config, name);
  const nothing: FrozenLinear = { weight: { format: "zero", rows: out, cols }, bias: null };
  return group(block, view, [{ name, frozen: nothing, adapter }], ".adapter")[0]!;
}
