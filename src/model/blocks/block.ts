// A block as a straight list of op calls on named values, written once for all families. What differs is in `BlockOptions`
// (model/config.ts).

import type { Call, Value } from "../graph.ts";
import { attention, projections } from "./attention.ts";
import { BlockBuilder, type BlockInput } from "./block-builder.ts";
import { expansions, feedForward } from "./feed-forward.ts";
import { linears } from "./linear-group.ts";

export interface Block {
  readonly calls: readonly Call[];
  readonly input: Value;
  readonly output: Value;
  /** Values that cost little to compute again (norms, gating, dropout): the first to be dropped when memory is short. */
  readonly cheap: readonly Value[];
}

export function buildBlock(input: BlockInput): Block {
  const block = new BlockBuilder(input);
  const { residual } = input.model.config.block;
  const output = residual === "sequential" ? sequential(block) : parallel(block);
  return { calls: block.calls, input: input.x, output, cheap: block.cheap };
}

function sequential(block: BlockBuilder): Value {
  const { x } = block.input;
  const attended = attention(block, linears(block, block.norm(x, "attention"), projections(block)));
  const middle = block.sum(x, block.normIfAny(attended, "attentionOutput"), "middle");
  const fed = feedForward(block, linears(block, block.norm(middle, "feedForward"), expansions(block)));
  return block.sum(middle, block.normIfAny(fed, "feedForwardOutput"), "output");
}

/** Norms come first, so that in the backward all that reads the gradient of the sum is done before they add to it. */
function parallel(block: BlockBuilder): Value {
  const { x } = block.input;
  const [forAttention, forFeedForward] = [projections(block), expansions(block)];
  const h = block.norm(x, "attention");
  let projected: readonly Value[];
  let expanded: readonly Value[];
  if (block.frozen.norms.feedForward) {
    const h2 = block.norm(x, "feedForward");
    projected = linears(block, h, forAttention);
    expanded = linears(block, h2, forFeedForward);
  } else {
    // One input, one call.
    const all = linears(block, h, [...forAttention, ...forFeedForward]);
    [projected, expanded] = [all.slice(0, forAttention.length), all.slice(forAttention.length)];
  }
  const middle = block.sum(x, attention(block, projected), "middle");
  return block.sum(middle, feedForward(block, expanded), "output");
}
