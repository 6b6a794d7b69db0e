// A sample as a person reads it: token by token, with the mask.

import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { Sample } from "./batch.ts";

export interface InspectedToken {
  readonly position: number;
  readonly id: number;
  /** As it stands in the text; white space and control characters are not escaped. */
  readonly text: string;
  readonly special: boolean;
  /** Whether the loss looks at it. */
  readonly supervised: boolean;
}

export interface InspectedSample {
  readonly id: number;
  readonly file: string;
  readonly line: number;
  readonly tokens: readonly InspectedToken[];
  readonly supervised: number;
}

/** A sample with the text of each token. */
export function inspectSample(sample: Sample, tokenizer: Tokenizer): InspectedSample {
  const tokens = Array.from(sample.tokens, (id, position) => ({
    position,
    id,
    text: tokenizer.token(id),
    special: tokenizer.isSpecial(id),
    supervised: sample.supervised[position] === 1,
  }));
  const { id, file, line } = sample;
  return { id, file, line, tokens, supervised: tokens.filter((token) => token.supervised).length };
}

/** Plain lines: a heading, then position, mask (`*` where the loss looks), id and the text as a JSON string. */
export function inspectionLines(sample: InspectedSample): string[] {
  const width = String(Math.max(0, ...sample.tokens.map((token) => token.id))).length;
  const digits = String(sample.tokens.length).length;
  return [
    `sample ${sample.id} (${sample.file}:${sample.line}): ${sample.tokens.length} tokens, ${sample.supervised} supervised`,
    ...sample.tokens.map((token) => {
      const position = String(token.position).padStart(digits);
      const id = String(token.id).padStart(width);
      return `  ${position} ${token.supervised ? "*" : " "} ${id} ${JSON.stringify(token.text)}`;
    }),
  ];
}
