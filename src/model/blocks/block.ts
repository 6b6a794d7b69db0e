// A block as a straight list of op calls on named values, written once for all families: norm, attention, residual, norm,
// feed-forward, residual. What differs is in `BlockOptions` (model/config.ts).

import type { Call, Value } from "../graph.ts";
import { attention } from "./attention.ts";
import { BlockBuilder, type BlockInput } from "./block-builder.ts";
import { feedForward } from "./feed-forward.ts";

export interface Block {
  readonly calls: readonly Call[];
  readonly output: Value;
  /** Values that cost little to compute again (norms, gating, dropout): the first to be dropped when memory is short. */
  readonly cheap: readonly Value[];
}

export function buildBlock(input: BlockInput): Block {
  const block = new BlockBuilder(input);
  const { norms } = block.frozen;
  const h = block.norm(input.x, norms.attention!, "attentionNorm");
  const middle = block.sum(input.x, attention(block, h), "middle");
  const h2 = block.norm(middle, norms.feedForward!, "feedForwardNorm");
  const output = block.sum(middle, feedForward(block, h2), "output");
  return { calls: block.calls, output, cheap: block.cheap };
}
