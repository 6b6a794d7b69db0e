// The feed-forward part of a block.

import { call, type Value } from "../graph.ts";
import type { BlockBuilder } from "./block-builder.ts";
import { linears } from "./linear-group.ts";

/** [N, C] → [N, C] */
export function feedForward(block: BlockBuilder, input: Value): Value {
  const { gate: gateName, up: upName, down } = block.input.model.config.block.feedForward;
  const [gate, up] = linears(block, input, [gateName, upName]);
  const y = block.cheapValue("gated", gate.cols);
  block.emit(call("glu", { gate, up, y, activation: "silu" }));
  return linears(block, y, [down])[0];
}
