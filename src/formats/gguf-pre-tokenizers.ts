// How byte-level BPE tokenizers cut a text before merging, by the name that GGUF has for it (tokenizer.ggml.pre), as the
// model's own tokenizer.json says it. Reading looks up the name, writing finds the name by the content.

export interface PreTokenizerKind {
  readonly normalizer: unknown;
  readonly preTokenizer: unknown;
  /** Whole words that are in the vocabulary are taken without merging. */
  readonly ignoreMerges: boolean;
  /** Whether a sequence opens with BOS if the metadata does not say. */
  readonly addsBos: boolean;
}

const byteLevel = (useRegex: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const split = (regex: string) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
const sequence = (...pretokenizers: unknown[]) => ({ type: "Sequence", pretokenizers });
const bySplit = (regex: string) => sequence(split(regex), byteLevel(false));
const DIGITS = { type: "Digits", individual_digits: true };

/** The cut of GPT-4's tokenizer, with numbers of up to so many digits. */
const gpt4 = (digits: string): string =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

const TEKKEN =
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** Three cuts, one after the other. */
const DEEPSEEK3 = [
  "\\p{N}{1,3}",
  "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];

const plain = { normalizer: null, ignoreMerges: false, addsBos: false };
const GPT2: PreTokenizerKind = { ...plain, preTokenizer: byteLevel(true) };
const DIGIT_WISE: PreTokenizerKind = { ...plain, preTokenizer: sequence(DIGITS, byteLevel(true)) };
const LLAMA3: PreTokenizerKind = { ...plain, preTokenizer: bySplit(gpt4("{1,3}")), ignoreMerges: true, addsBos: true };
const QWEN2: PreTokenizerKind = { ...plain, normalizer: { type: "NFC" }, preTokenizer: bySplit(gpt4("")) };

/** Kinds of one content stand together; the first name is the one that is written. */
export const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizerKind>> = {
  "gpt-2": GPT2,
  "phi-2": GPT2,
  olmo: GPT2,
  mpt: GPT2,
  smollm: DIGIT_WISE,
  starcoder: DIGIT_WISE,
  refact: DIGIT_WISE,
  "command-r": DIGIT_WISE,
  codeshell: DIGIT_WISE,
  "llama-bpe": LLAMA3,
  llama3: LLAMA3,
  "llama-v3": LLAMA3,
  falcon3: LLAMA3,
  dbrx: { ...LLAMA3, ignoreMerges: false, addsBos: false },
  "smaug-bpe": { ...LLAMA3, ignoreMerges: false, addsBos: false },
  qwen2: QWEN2,
  "deepseek-r1-qwen": QWEN2,
  stablelm2: QWEN2,
  "deepseek-v3": { ...plain, preTokenizer: sequence(...DEEPSEEK3.map(split), byteLevel(false)) },
  tekken: { ...plain, preTokenizer: bySplit(TEKKEN), ignoreMerges: true, addsBos: true },
};
