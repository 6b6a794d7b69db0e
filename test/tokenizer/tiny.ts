// The tokenizers of test/fixtures/tokenizer-tiny, in the arrangements that the tests need.

import { readFileSync } from "node:fs";
import { loadTokenizer, type Tokenizer } from "../../src/tokenizer/tokenizer.ts";

const read = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../fixtures/tokenizer-tiny/${name}`, import.meta.url), "utf8"));

export const KINDS = ["byte-level", "sentencepiece"] as const;
export type Kind = (typeof KINDS)[number];

interface Expected {
  readonly texts: readonly string[];
  readonly encoded: Record<Kind, number[][]>;
  readonly decoded: Record<Kind, string[]>;
  readonly templates: Record<string, string>;
  readonly chat: { role: string; content: string }[];
  readonly rendered: Record<string, string[]>;
}

export const expected = read("expected.json") as Expected;
export const tokenizerJson = (kind: Kind) => structuredClone(read(`${kind}.json`)) as Record<string, unknown>;

/** The byte-level kind has no BOS and ends texts with </s>; the SentencePiece kind opens them with <s>. */
export function tiny(kind: Kind = "byte-level", template?: string, config: Record<string, unknown> = {}): Tokenizer {
  const bos = kind === "sentencepiece" ? { bos_token: "<s>" } : {};
  return loadTokenizer({
    tokenizerJson: tokenizerJson(kind),
    tokenizerConfig: { eos_token: "</s>", ...bos, ...config },
    ...(template === undefined ? {} : { chatTemplateFile: template }),
  });
}
