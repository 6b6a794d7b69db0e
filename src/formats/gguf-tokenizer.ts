// tokenizer.ggml.* metadata → tokenizer.json, tokenizer_config.json, generation_config.json and the chat template, as the
// model's folder had them. Two kinds: "gpt2", byte-level BPE, and "llama", SentencePiece's BPE, whose merges are worked out
// from the pieces' scores as transformers does on converting tokenizer.model.

import type { MetadataReader } from "./gguf-metadata.ts";
import { PRE_TOKENIZERS } from "./gguf-pre-tokenizers.ts";

/** llama.cpp's kinds of tokens. */
export const TOKEN_KIND = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Contents of the tokenizer's files by their names. Throws MODEL_UNSUPPORTED, GGUF_INVALID. */
export function tokenizerFromGguf(read: MetadataReader): Record<string, unknown> {
  const vocabulary = readVocabulary(read);
  const template = read.text("tokenizer.chat_template");
  const model = read.text("tokenizer.ggml.model") ?? "absent";
  const parts =
    model === "gpt2" ? byteLevelParts(read) : model === "llama" ? sentencePieceParts(read, vocabulary) : null;
  if (!parts) throw read.unsupported("tokenizer.ggml.model", model, "gpt2, llama");
  const { addsBos, ...json } = parts;
  const bos = tokenName(read, vocabulary, "bos");
  const eot = read.number("tokenizer.ggml.eot_token_id");
  const eos = read.number("tokenizer.ggml.eos_token_id");
  return {
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary),
      post_processor: addsBos && bos !== null ? opening(bos, read.number("tokenizer.ggml.bos_token_id")!) : null,
      ...json,
    },
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: bos,
      eos_token: tokenName(read, vocabulary, "eos"),
      unk_token: tokenName(read, vocabulary, "unknown"),
      pad_token: tokenName(read, vocabulary, "padding"),
      clean_up_tokenization_spaces: false,
      ...(template === null ? {} : { chat_template: template }),
    },
    ...(eot === null || eot === eos ? {} : { "generation_config.json": { eos_token_id: [eos ?? eot, eot] } }),
  };
}

interface GgufVocabulary {
  readonly tokens: readonly string[];
  /** `TOKEN_KIND` of each. */
  readonly kinds: ArrayLike<number>;
}

function readVocabulary(read: MetadataReader): GgufVocabulary {
  const tokens = read.texts("tokenizer.ggml.tokens");
  if (!tokens) throw read.invalid("tokenizer.ggml.tokens", "a list of tokens");
  const kinds = read.numbers("tokenizer.ggml.token_type") ?? new Int32Array(tokens.length).fill(TOKEN_KIND.normal);
  if (kinds.length !== tokens.length) throw read.invalid("tokenizer.ggml.token_type", `${tokens.length} numbers`);
  return { tokens, kinds };
}

function tokenName(read: MetadataReader, { tokens }: GgufVocabulary, role: string): string | null {
  const key = `tokenizer.ggml.${role}_token_id`;
  const id = read.number(key);
  if (id === null || id === 0xffffffff) return null;
  if (tokens[id] === undefined) throw read.invalid(key, `an id below ${tokens.length}`);
  return tokens[id];
}

/** Tokens that are found in a text before it is cut: control tokens and those that users added. */
function addedTokens({ tokens, kinds }: GgufVocabulary): unknown[] {
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return tokens.flatMap((content, id) => {
    const kind = kinds[id];
    const special = kind === TOKEN_KIND.control || kind === TOKEN_KIND.unknown;
    return special || kind === TOKEN_KIND.userDefined ? [{ id, content, ...plain, special }] : [];
  });
}

/** A post-processor that puts BOS first. */
function opening(bos: string, id: number): unknown {
  const special = { SpecialToken: { id: bos, type_id: 0 } };
  const text = (name: string, type_id: number) => ({ Sequence: { id: name, type_id } });
  return {
    type: "TemplateProcessing",
    single: [special, text("A", 0)],
    pair: [special, text("A", 0), { SpecialToken: { id: bos, type_id: 1 } }, text("B", 1)],
    special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
  };
}

interface Parts {
  readonly addsBos: boolean;
  readonly normalizer: unknown;
  readonly pre_tokenizer: unknown;
  readonly decoder: unknown;
  readonly model: unknown;
}

function byteLevelParts(read: MetadataReader): Parts {
  const name = read.text("tokenizer.ggml.pre") ?? "absent";
  const kind = PRE_TOKENIZERS[name];
  if (!kind) throw read.unsupported("tokenizer.ggml.pre", name, Object.keys(PRE_TOKENIZERS).join(", "));
  const { tokens } = readVocabulary(read);
  const merges = read.texts("tokenizer.ggml.merges");
  if (!merges) throw read.invalid("tokenizer.ggml.merges", "a list of merges");
  return {
    addsBos: read.flag("tokenizer.ggml.add_bos_token") ?? kind.addsBos,
    normalizer: kind.normalizer,
    pre_tokenizer: kind.preTokenizer,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: bpe(
      tokens,
      merges.map((merge) => splitMerge(read, merge)),
      { ignore_merges: kind.ignoreMerges },
    ),
  };
}

/** "a b" → ["a", "b"]: the first space that is not the first character. */
function splitMerge(read: MetadataReader, merge: string): [string, string] {
  const space = merge.indexOf(" ", 1);
  if (space < 1 || space === merge.length - 1)
    throw read.invalid("tokenizer.ggml.merges", '"left right" in each entry');
  return [merge.slice(0, space), merge.slice(space + 1)];
}

function bpe(tokens: readonly string[], merges: readonly (readonly [string, string])[], more: object): unknown {
  // The first of two equal tokens is the one that merging yields.
  const vocab: Record<string, number> = Object.create(null);
  for (let id = tokens.length - 1; id >= 0; id--) vocab[tokens[id]!] = id;
  return {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    ...more,
    vocab,
    merges,
  };
}

const SPACE = "▁";

function sentencePieceParts(read: MetadataReader, vocabulary: GgufVocabulary): Parts {
  const prefix = read.flag("tokenizer.ggml.add_space_prefix") ?? true;
  const replace = { type: "Replace", pattern: { String: " " }, content: SPACE };
  const steps = prefix ? [{ type: "Prepend", prepend: SPACE }, replace] : [replace];
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
  const decoders: object[] = [
    { type: "Replace", pattern: { String: SPACE }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  const { tokens } = vocabulary;
  return {
    addsBos: read.flag("tokenizer.ggml.add_bos_token") ?? true,
    normalizer: { type: "Sequence", normalizers: steps },
    pre_tokenizer: null,
    decoder: { type: "Sequence", decoders: prefix ? [...decoders, strip] : decoders },
    model: bpe(tokens, mergesByScore(read, vocabulary), {
      unk_token: tokens[read.number("tokenizer.ggml.unknown_token_id") ?? 0] ?? null,
      fuse_unk: true,
      byte_fallback: true,
    }),
  };
}

/** Every way to put a piece together from two others, best score first, as transformers' SentencePieceExtractor has it. */
function mergesByScore(read: MetadataReader, { tokens, kinds }: GgufVocabulary): [string, string][] {
  const scores = read.numbers("tokenizer.ggml.scores");
  if (scores?.length !== tokens.length) throw read.invalid("tokenizer.ggml.scores", `${tokens.length} numbers`);
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges: { readonly pair: [string, string]; readonly score: number }[] = [];
  for (const [id, piece] of tokens.entries()) {
    // Pieces that were made user-defined are still merged in texts.
    if (kinds[id] !== TOKEN_KIND.normal && kinds[id] !== TOKEN_KIND.userDefined) continue;
    const found: { readonly pair: [string, string]; readonly left: number; readonly right: number }[] = [];
    const characters = [...piece];
    for (let cut = 1; cut < characters.length; cut++) {
      const pair: [string, string] = [characters.slice(0, cut).join(""), characters.slice(cut).join("")];
      const [left, right] = [ids.get(pair[0]), ids.get(pair[1])];
      if (left !== undefined && right !== undefined) found.push({ pair, left, right });
    }
    found.sort((a, b) => a.left - b.left || a.right - b.right);
    for (const { pair } of found) merges.push({ pair, score: scores[id]! });
  }
  // Stable: merges of one score stay in the order of their pieces.
  return merges.sort((a, b) => b.score - a.score).map(({ pair }) => pair);
}
