// A model's tokenizer, as its tokenizer.json and tokenizer_config.json describe it. The work is done by
// @huggingface/tokenizers; this file adds what training depends on: one rule for BOS, ids that are checked, and text
// that can be continued without a space the user did not write. Texts and parsed JSON come in; no files are read here.

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import * as z from "zod";
import { QdlError } from "../errors.ts";
import { concatIds } from "./ids.ts";
import { type ChatMessage, ChatTemplate } from "./template.ts";

/** What a model's folder holds, already parsed. Only tokenizerJson is required. */
export interface TokenizerParts {
  readonly tokenizerJson: unknown;
  readonly tokenizerConfig?: unknown;
  readonly generationConfig?: unknown;
  /** The text of chat_template.jinja; it wins over the template in tokenizer_config.json. */
  readonly chatTemplateFile?: string | undefined;
}

export interface EncodeOptions {
  /** true: the text opens a sequence. BOS is put first if the model's tokenizer does so and it is not there already. */
  readonly addSpecial: boolean;
  /** true: the text goes on after other text, so that a tokenizer which opens texts with a space must not do so here. */
  readonly continuation?: boolean;
}

export interface Tokenizer {
  /** Never adds EOS, never puts two BOS. Throws TOKENIZER_INVALID for text outside a vocabulary without unknown-token. */
  encode(text: string, options: EncodeOptions): Int32Array;
  /** The text of the ids; bytes that are no UTF-8 become U+FFFD. Spaces are not cleaned up. */
  decode(ids: ArrayLike<number>, options: { readonly skipSpecial: boolean }): string;
  /** Every id that `encode` can yield is below `size`. */
  readonly size: number;
  readonly bosId: number | null;
  /** Ids that end a text; the first is the one that training appends. From tokenizer_config, then generation_config. */
  readonly eosIds: readonly number[];
  /** Whether a sequence opens with BOS. */
  readonly addsBos: boolean;
  /** One token as a person reads it: its text, or its name in the vocabulary if it is a part of a character. */
  token(id: number): string;
  /** Whether the id stands for a special token such as BOS or an end-of-turn mark. */
  isSpecial(id: number): boolean;
  /** The chat template's text, or null. */
  readonly template: string | null;
  readonly templateSha256: string | null;
  /** The conversation as the model expects it. Throws TEMPLATE_MISSING, TEMPLATE_FAILED. */
  renderChat(messages: readonly ChatMessage[], options: { readonly generationPrompt: boolean }): string;
}

/** What is used of the library, whose own declarations do not resolve under NodeNext. */
interface Library {
  encode(text: string, options?: { add_special_tokens: boolean }): { ids: (number | undefined)[]; tokens: string[] };
  decode(ids: number[], options: { clean_up_tokenization_spaces: boolean }): string;
  tokenize(text: string): string[];
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}

const id = z.int().nonnegative();
const tokenName = z.union([z.string(), z.object({ content: z.string() }).transform((t) => t.content)]).nullish();

/** BPE and WordPiece give each token its id; Unigram gives tokens with scores, in the order of their ids. */
type Vocabulary = Readonly<Record<string, number>> | readonly (readonly [string, number])[];

const tokenizerJsonSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id, content: z.string(), special: z.boolean().optional() })).default([]),
  model: z.looseObject({
    // Looked through by hand: a schema would copy some hundred thousand entries.
    vocab: z.custom<Vocabulary>(isVocabulary, "expected every token to have a whole number as its id"),
  }),
});

const tokenizerConfigSchema = z.looseObject({
  tokenizer_class: z.string().nullish(),
  add_bos_token: z.boolean().nullish(),
  bos_token: tokenName,
  eos_token: tokenName,
  unk_token: tokenName,
  pad_token: tokenName,
  chat_template: z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish(),
});

const generationConfigSchema = z.looseObject({
  bos_token_id: id.nullish(),
  eos_token_id: z.union([id, z.array(id)]).nullish(),
});

type TokenizerJson = z.infer<typeof tokenizerJsonSchema>;
type TokenizerConfig = z.infer<typeof tokenizerConfigSchema>;

/** A tokenizer from its parts. Throws TOKENIZER_INVALID, and TEMPLATE_FAILED for a chat template that cannot be parsed. */
export function loadTokenizer(parts: TokenizerParts): Tokenizer {
  const json = parsePart(tokenizerJsonSchema, parts.tokenizerJson, "tokenizer.json");
  const config = parsePart(tokenizerConfigSchema, parts.tokenizerConfig ?? {}, "tokenizer_config.json");
  const generation = parsePart(generationConfigSchema, parts.generationConfig ?? {}, "generation_config.json");
  const library = openLibrary(parts.tokenizerJson as object, config);

  const bosId = namedId(library, config.bos_token, "bos_token") ?? generation.bos_token_id ?? null;
  const eosId = namedId(library, config.eos_token, "eos_token");
  const eosIds = new Set([eosId ?? [], generation.eos_token_id ?? []].flat());
  const template = parts.chatTemplateFile ?? defaultTemplate(config.chat_template);
  return new LoadedTokenizer(library, {
    size: vocabularySize(json),
    bosId,
    eosIds: [...eosIds],
    addsBos: bosId !== null && opensWithBos(library, config, bosId),
    special: new Set(json.added_tokens.filter((t) => t.special === true).map((t) => t.id)),
    chat: template === null ? null : new ChatTemplate(template, specialTokens(config)),
  });
}

/**
 * Throws VOCABULARY_MISMATCH if the tokenizer can yield an id that the model's embedding, of `modelVocabulary` rows, does
 * not have. A larger embedding is usual (it is padded) and fine.
 */
export function checkVocabulary(tokenizer: Tokenizer, modelVocabulary: number): void {
  const largest = Math.max(tokenizer.size - 1, tokenizer.bosId ?? 0, ...tokenizer.eosIds);
  if (largest < modelVocabulary) return;
  throw new QdlError(
    "VOCABULARY_MISMATCH",
    `tokenizer: its largest token id is ${largest} (${JSON.stringify(tokenizer.token(largest))}), expected ids below ` +
      `${modelVocabulary} because the model's embedding has that many rows`,
    {
      hint: "Use the tokenizer.json that came with the model. Tokens cannot be added without training the embedding.",
      details: { largestId: largest, modelVocabulary },
    },
  );
}

interface Facts {
  readonly size: number;
  readonly bosId: number | null;
  readonly eosIds: readonly number[];
  readonly addsBos: boolean;
  readonly special: ReadonlySet<number>;
  readonly chat: ChatTemplate | null;
}

class LoadedTokenizer implements Tokenizer {
  readonly #library: Library;
  readonly #facts: Facts;
  /** The ids of a line feed that opens a text, if this tokenizer puts a space before the first word; else null. */
  readonly #opening: Int32Array | null;

  constructor(library: Library, facts: Facts) {
    this.#library = library;
    this.#facts = facts;
    this.#opening = /^[▁Ġ]/.test(library.tokenize("a")[0] ?? "") ? this.#encode("\n") : null;
  }

  get size(): number {
    return this.#facts.size;
  }
  get bosId(): number | null {
    return this.#facts.bosId;
  }
  get eosIds(): readonly number[] {
    return this.#facts.eosIds;
  }
  get addsBos(): boolean {
    return this.#facts.addsBos;
  }
  get template(): string | null {
    return this.#facts.chat?.text ?? null;
  }
  get templateSha256(): string | null {
    return this.#facts.chat?.sha256 ?? null;
  }

  encode(text: string, options: EncodeOptions): Int32Array {
    const ids = options.continuation === true ? this.#continue(text) : this.#encode(text);
    const { bosId, addsBos } = this.#facts;
    if (!options.addSpecial || !addsBos || bosId === null || ids[0] === bosId) return ids;
    return concatIds([bosId], ids);
  }

  decode(ids: ArrayLike<number>, options: { readonly skipSpecial: boolean }): string {
    // The library maps ids that it does not know to `undefined`; an embedding may be larger than the vocabulary.
    const known = Array.from(ids).filter((i) => this.#library.id_to_token(i) !== undefined);
    const kept = options.skipSpecial ? known.filter((i) => !this.isSpecial(i)) : known;
    return kept.length === 0 ? "" : this.#library.decode(kept, { clean_up_tokenization_spaces: false });
  }

  token(i: number): string {
    const name = this.#library.id_to_token(i);
    if (name === undefined) return `<id ${i}>`;
    const text = this.decode([i], { skipSpecial: false });
    if (text.includes("\uFFFD") || text === "") return name.replaceAll("▁", " ");
    // SentencePiece decoders drop the space that opens a text; inside a text it is there.
    return name.startsWith("▁") && !text.startsWith(" ") ? ` ${text}` : text;
  }

  isSpecial(i: number): boolean {
    return this.#facts.special.has(i);
  }

  renderChat(messages: readonly ChatMessage[], options: { readonly generationPrompt: boolean }): string {
    if (this.#facts.chat === null) {
      throw new QdlError(
        "TEMPLATE_MISSING",
        "chat template: the model has none, expected one because the data is chat",
        {
          hint: 'Add a chat_template.jinja to the model\'s folder, or write the rows as {"prompt": …, "completion": …}.',
        },
      );
    }
    return this.#facts.chat.render(messages, options);
  }

  /** Encodes after a line feed and takes the line feed's ids away, unless they melt into the text's own. */
  #continue(text: string): Int32Array {
    if (this.#opening === null) return this.#encode(text);
    const ids = this.#encode(`\n${text}`);
    const apart = this.#opening.every((opening, n) => ids[n] === opening);
    return apart ? ids.subarray(this.#opening.length) : this.#encode(text);
  }

  #encode(text: string): Int32Array {
    if (text === "") return new Int32Array(0);
    const { ids, tokens } = this.#library.encode(text, { add_special_tokens: false });
    const unknown = ids.indexOf(undefined);
    if (unknown >= 0) {
      throw new QdlError(
        "TOKENIZER_INVALID",
        `tokenizer: ${JSON.stringify(tokens[unknown])} is not in the vocabulary, expected every text to have ids ` +
          "because the tokenizer has no unknown-token",
        { hint: "Remove the text's unusual characters, or use a model with a byte-level tokenizer." },
      );
    }
    return Int32Array.from(ids as number[]);
  }
}

function parsePart<T>(schema: z.ZodType<T>, value: unknown, name: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw invalid(`${name}: ${issue.path.join(".") || "the file"}: ${issue.message}`, { file: name, path: issue.path });
}

function openLibrary(json: object, config: TokenizerConfig): Library {
  const absent = { added_tokens: [], decoder: null, post_processor: null, pre_tokenizer: null, normalizer: null };
  try {
    return new HuggingFaceTokenizer({ ...absent, ...json }, config) as Library;
  } catch (cause) {
    throw invalid(`tokenizer.json: ${cause instanceof Error ? cause.message : String(cause)}`, {}, cause);
  }
}

function invalid(message: string, details: Readonly<Record<string, unknown>>, cause?: unknown): QdlError {
  return new QdlError("TOKENIZER_INVALID", message, {
    hint: "The model's folder needs a tokenizer.json as the `tokenizers` library writes it (not tokenizer.model).",
    details,
    cause,
  });
}

function namedId(library: Library, name: string | null | undefined, key: string): number | null {
  if (name === null || name === undefined) return null;
  const found = library.token_to_id(name);
  if (found !== undefined) return found;
  throw invalid(`tokenizer_config.json: ${key} is ${JSON.stringify(name)}, expected a token of tokenizer.json`, {
    key,
  });
}

function isVocabulary(vocab: unknown): boolean {
  if (Array.isArray(vocab)) return vocab.every((entry) => Array.isArray(entry) && typeof entry[0] === "string");
  if (vocab === null || typeof vocab !== "object") return false;
  return Object.values(vocab).every((value) => Number.isSafeInteger(value) && (value as number) >= 0);
}

function vocabularySize(json: TokenizerJson): number {
  const { vocab } = json.model;
  let size = Array.isArray(vocab) ? vocab.length : 0;
  if (!Array.isArray(vocab)) for (const value of Object.values(vocab)) size = Math.max(size, value + 1);
  for (const added of json.added_tokens) size = Math.max(size, added.id + 1);
  return size;
}

/**
 * Whether a sequence opens with BOS: as the post-processor says, but in the classes that build their post-processor from
 * `add_bos_token` (transformers' Llama, Gemma and Cohere tokenizers) that setting decides.
 */
function opensWithBos(library: Library, config: TokenizerConfig, bosId: number): boolean {
  if (typeof config.add_bos_token === "boolean" && /Llama|Gemma|Cohere/.test(config.tokenizer_class ?? "")) {
    return config.add_bos_token;
  }
  return library.encode("a").ids[0] === bosId;
}

function defaultTemplate(stored: TokenizerConfig["chat_template"]): string | null {
  if (typeof stored === "string") return stored;
  return stored?.find((entry) => entry.name === "default")?.template ?? null;
}

function specialTokens(config: TokenizerConfig): Record<string, unknown> {
  const names = ["bos_token", "eos_token", "unk_token", "pad_token"] as const;
  const set = names.flatMap((name) => (typeof config[name] === "string" ? [[name, config[name]]] : []));
  return Object.fromEntries(set) as Record<string, unknown>;
}
