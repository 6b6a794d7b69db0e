// The feed-forward part of a block: from the outputs of its first linears to that of its last.

import type { LinearName } from "../config.ts";
import { call, type Value } from "../graph.ts";
import type { BlockBuilder } from "./block-builder.ts";
import { linears } from "./linear-group.ts";

/** The linears that read the feed-forward's input. */
export function expansions(block: BlockBuilder): LinearName[] {
  const options = block.input.model.config.block.feedForward;
  if (options.kind === "plain") return [options.up];
  const { projection } = options;
  return projection.kind === "fused" ? [projection.linear] : [projection.gate, projection.up];
}

/** `expanded`: the outputs of `expansions`. Returns [N, C]. */
export function feedForward(block: BlockBuilder, expanded: readonly Value[]): Value {
  const { down } = block.input.model.config.block.feedForward;
  return linears(block, activated(block, expanded), [down])[0]!;
}

function activated(block: BlockBuilder, expanded: readonly Value[]): Value {
  const { feedForward: options } = block.input.model.config.block;
  const y = block.cheapValue("activated", block.input.model.config.intermediate);
  if (options.kind === "gated") {
    const [gate, up] = options.projection.kind === "fused" ? halves(block, expanded[0]!) : (expanded as [Value, Value]);
    block.emit(call("glu", { gate, up, y, activation: options.activation }));
  } else block.emit(call("gelu", { x: expanded[0]!, y, form: options.gelu }));
  return y;
}

/** [gate | up] */
function halves(block: BlockBuilder, both: Value): readonly [Value, Value] {
  const parts = [block.value("gate", both.cols / 2), block.value("up", both.cols / 2)] as const;
  block.emit(call("splitColumns", { x: both, parts, groups: 1 }));
  return parts;
}
