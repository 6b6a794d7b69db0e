// Grouped-query attention of a block: from the outputs of its projections to that of its output linear. Training and decoding
// differ only in how attention reads its keys.

import type { LinearName } from "../config.ts";
import { call, type Value } from "../graph.ts";
import type { BlockBuilder } from "./block-builder.ts";
import { linears } from "./linear-group.ts";

/** The linears that read attention's input. */
export function projections(block: BlockBuilder): LinearName[] {
  const { projection } = block.input.model.config.block.attention;
  if (projection.kind === "fused") return [projection.linear];
  return [projection.query, projection.key, projection.value];
}

/** `projected`: the outputs of `projections`. Returns [N, C]. */
export function attention(block: BlockBuilder, projected: readonly Value[]): Value {
  const { model, layer, cosSin, attention: attend } = block.input;
  const { config } = model;
  const { rope } = config.perLayer[layer]!;
  const [query, key, v] = queriesKeysValues(block, projected);
  /** Normalised and rotated, where the model does so. */
  const prepared = (x: Value, name: "query" | "key"): Value => {
    const normed = block.normIfAny(x, name);
    return rope === null ? normed : rotate(block, normed, cosSin[rope]!, `${name}Rotated`);
  };
  const o = attend(layer, prepared(query, "query"), prepared(key, "key"), v, block.emit);
  return linears(block, o, [config.block.attention.output])[0]!;
}

function queriesKeysValues(block: BlockBuilder, projected: readonly Value[]): readonly [Value, Value, Value] {
  const { block: options, heads, kvHeads, headDim } = block.input.model.config;
  const { projection } = options.attention;
  if (projection.kind === "separate") return projected as unknown as readonly [Value, Value, Value];
  const parts = [
    block.value("query", heads * headDim),
    block.value("key", kvHeads * headDim),
    block.value("value", kvHeads * headDim),
  ] as const;
  block.emit(call("splitColumns", { x: projected[0]!, parts, groups: projection.groups }));
  return parts;
}

function rotate(block: BlockBuilder, x: Value, cosSin: Value, name: string): Value {
  const y = block.value(name, x.cols);
  block.emit(call("rope", { x, cosSin, y, headDim: block.input.model.config.headDim, direction: "forward" }));
  return y;
}
