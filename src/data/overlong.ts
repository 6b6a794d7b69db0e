// What becomes of a sample longer than `seq`.

import { QdlError } from "../errors.ts";
import type { Example } from "./examples.ts";
import type { Place } from "./rows.ts";

/**
 * error: refuse the data, with a count. truncate: keep the first `seq` tokens. drop: leave the sample out.
 * split: pieces of at most `seq` tokens, each beginning with the last token of the piece before, so that every
 * supervised token keeps a predecessor and is learned exactly once.
 */
export type OverlongPolicy = "error" | "truncate" | "drop" | "split";

/** How many samples were longer than `seq`, the longest one's tokens, and where the first stands. */
export interface OverlongReport {
  readonly policy: OverlongPolicy;
  readonly count: number;
  readonly longest: number;
  readonly first: Place | null;
}

/** Applies a policy and keeps the count. */
export class OverlongFilter {
  readonly #seq: number;
  readonly #policy: OverlongPolicy;
  #count = 0;
  #longest = 0;
  #first: Place | null = null;

  constructor(seq: number, policy: OverlongPolicy) {
    this.#seq = seq;
    this.#policy = policy;
  }

  get report(): OverlongReport {
    return { policy: this.#policy, count: this.#count, longest: this.#longest, first: this.#first };
  }

  /** What is kept of an example, in pieces of at most `seq` tokens. */
  apply(example: Example, place: Place): Example[] {
    const length = example.tokens.length;
    if (length <= this.#seq) return [example];
    this.#count++;
    this.#longest = Math.max(this.#longest, length);
    this.#first ??= { file: place.file, line: place.line };
    switch (this.#policy) {
      case "truncate":
        return [piece(example, 0, this.#seq)];
      case "split":
        return pieces(example, this.#seq);
      case "drop":
      case "error":
        return [];
    }
  }

  /** Throws DATA_OVERLONG if the policy is `error` and there was one. */
  check(): void {
    if (this.#policy !== "error" || this.#first === null) return;
    const { file, line } = this.#first;
    const many = this.#count === 1 ? "1 sample is" : `${this.#count} samples are`;
    throw new QdlError(
      "DATA_OVERLONG",
      `data: ${many} longer than seq = ${this.#seq} tokens (the longest has ${this.#longest}, the first is ` +
        `${file}:${line}), expected at most seq tokens because no policy for longer ones was chosen`,
      {
        hint: `Raise --seq to ${this.#longest}, or choose --overlong truncate, drop or split.`,
        details: { count: this.#count, longest: this.#longest, seq: this.#seq, file, line },
      },
    );
  }
}

function pieces(example: Example, seq: number): Example[] {
  const found: Example[] = [];
  for (let from = 0; from < example.tokens.length - 1; from += seq - 1) {
    found.push(piece(example, from, Math.min(from + seq, example.tokens.length)));
  }
  return found;
}

function piece(example: Example, from: number, to: number): Example {
  const supervised = example.supervised.slice(from, to);
  supervised[0] = 0;
  return { tokens: example.tokens.slice(from, to), supervised };
}
