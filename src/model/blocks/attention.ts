// Grouped-query attention of a block: projections, rotary embedding, attention, output projection. Training and decoding
// differ only in how attention reads its keys.

import { call, type Value } from "../graph.ts";
import type { BlockBuilder } from "./block-builder.ts";
import { linears } from "./linear-group.ts";

/** [N, C] → [N, C] */
export function attention(block: BlockBuilder, input: Value): Value {
  const { model, layer, cosSin, attention: attend } = block.input;
  const { config } = model;
  const { query, key, value, output } = config.block.attention;
  const [q, k, v] = linears(block, input, [query, key, value]);
  const angles = cosSin[config.perLayer[layer]!.rope]!;
  const o = attend(layer, rotate(block, q, angles, "q"), rotate(block, k, angles, "k"), v, block.emit);
  return linears(block, o, [output])[0];
}

function rotate(block: BlockBuilder, x: Value, cosSin: Value, name: string): Value {
  const y = block.value(name, x.cols);
  block.emit(call("rope", { x, cosSin, y, direction: "forward" }));
  return y;
}
