import type { Sample } from "./batch.ts";

/** Sequences that are still tried for room. More find tighter fits; the waste is a few percent already with 64. */
const WINDOW = 64;

/**
 * Packs samples into sequences of at most `seq` tokens: each sample goes, in order, to the first of the last WINDOW
 * sequences with room for it, else it opens a new one. A sequence lists indexes of `samples`.
 */
export function pack(samples: readonly Sample[], order: Iterable<number>, seq: number): number[][] {
  const sequences: number[][] = [];
  const used: number[] = [];
  for (const index of order) {
    const length = samples[index]!.tokens.length;
    let at = Math.max(0, sequences.length - WINDOW);
    while (at < sequences.length && used[at]! + length > seq) at++;
    if (at === sequences.length) {
      sequences.push([]);
      used.push(0);
    }
    sequences[at]!.push(index);
    used[at]! += length;
  }
  return sequences;
}
