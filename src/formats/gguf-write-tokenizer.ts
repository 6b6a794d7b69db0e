// A model folder's tokenizer → tokenizer.ggml.* metadata. What has no name in GGUF is refused: llama.cpp would cut texts
// in another way than the model was trained on, and say nothing.

import { z } from "zod";
import { QdlError } from "../errors.ts";
import type { Folder } from "./folder.ts";
import { PRE_TOKENIZERS } from "./gguf-pre-tokenizers.ts";
import { TOKEN_KIND } from "./gguf-tokenizer.ts";
import { u32, type ValueToWrite } from "./gguf-write.ts";

type Entry = readonly [string, ValueToWrite];

const token = z.union([z.string(), z.object({ content: z.string() }).transform((named) => named.content)]).nullish();
const merge = z.union([z.string(), z.tuple([z.string(), z.string()]).transform((pair) => pair.join(" "))]);

const TOKENIZER = z.looseObject({
  added_tokens: z.array(z.looseObject({ id: z.int(), content: z.string(), special: z.boolean().default(false) })),
  normalizer: z.unknown(),
  pre_tokenizer: z.unknown(),
  post_processor: z.unknown(),
  model: z.looseObject({
    type: z.literal("BPE"),
    vocab: z.custom<Readonly<Record<string, number>>>((value) => typeof value === "object" && value !== null),
    merges: z.array(merge),
    ignore_merges: z.boolean().nullish(),
    byte_fallback: z.boolean().nullish(),
    unk_token: z.string().nullish(),
  }),
});
type TokenizerJson = z.infer<typeof TOKENIZER>;

const CONFIG = z.looseObject({
  bos_token: token,
  eos_token: token,
  unk_token: token,
  pad_token: token,
  tokenizer_class: z.string().nullish(),
  add_bos_token: z.boolean().nullish(),
  chat_template: z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish(),
});

/** The tokenizer's metadata for a model whose embedding has `rows` rows. Throws TOKENIZER_INVALID, FILE_NOT_FOUND. */
export async function tokenizerMetadata(folder: Folder, rows: number): Promise<Entry[]> {
  const json = await parsed(folder, "tokenizer.json", TOKENIZER);
  const config = (await folder.exists("tokenizer_config.json"))
    ? await parsed(folder, "tokenizer_config.json", CONFIG)
    : CONFIG.parse({});
  const sentencePiece = json.model.byte_fallback === true;
  const kind = sentencePiece ? sentencePieceEntries(json, rows) : byteLevelEntries(folder, json);
  const ids = tokenIds(json);
  const special = (role: string, name: string | null | undefined): Entry[] => {
    const id = name === null || name === undefined ? undefined : ids.get(name);
    return id === undefined ? [] : [[`tokenizer.ggml.${role}_token_id`, u32(id)]];
  };
  const template = await templateOf(folder, config.chat_template);
  return [
    ["tokenizer.ggml.model", sentencePiece ? "llama" : "gpt2"],
    ...tokenEntries(json, ids, rows),
    ...kind,
    ...special("bos", config.bos_token),
    ...special("eos", config.eos_token),
    ...special("unknown", config.unk_token ?? json.model.unk_token),
    ...special("padding", config.pad_token),
    ["tokenizer.ggml.add_bos_token", opensWithBos(json, config)],
    ...(template === null ? [] : [["tokenizer.chat_template", template] as const]),
  ];
}

async function parsed<T>(folder: Folder, name: string, schema: z.ZodType<T>): Promise<T> {
  const text = new TextDecoder().decode(await folder.read(name));
  const result = schema.safeParse(JSON.parse(text));
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw unnamed(folder, `${name}: ${issue!.path.join(".") || "the file"}: ${issue!.message}`);
}

function tokenIds({ model, added_tokens }: TokenizerJson): Map<string, number> {
  return new Map([...Object.entries(model.vocab), ...added_tokens.map(({ content, id }) => [content, id] as const)]);
}

/** Texts and kinds of all tokens. Rows of the embedding that no token has get names that no text yields. */
function tokenEntries(json: TokenizerJson, ids: ReadonlyMap<string, number>, rows: number): Entry[] {
  const tokens = Array.from({ length: rows }, (_, id) => `[PAD${id}]`);
  const kinds = new Int32Array(rows).fill(TOKEN_KIND.unused);
  for (const [content, id] of ids) {
    tokens[id] = content;
    kinds[id] = /^<0x[0-9A-F]{2}>$/.test(content) && json.model.byte_fallback ? TOKEN_KIND.byte : TOKEN_KIND.normal;
  }
  for (const { id, special, content } of json.added_tokens)
    kinds[id] =
      content === json.model.unk_token ? TOKEN_KIND.unknown : special ? TOKEN_KIND.control : TOKEN_KIND.userDefined;
  return [
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", kinds],
  ];
}

function byteLevelEntries(folder: Folder, { normalizer, pre_tokenizer, model }: TokenizerJson): Entry[] {
  const wanted = canonical([normalizer ?? null, pre_tokenizer ?? null, model.ignore_merges ?? false]);
  const name = Object.keys(PRE_TOKENIZERS).find((known) => {
    const { normalizer: n, preTokenizer, ignoreMerges } = PRE_TOKENIZERS[known]!;
    return canonical([n, preTokenizer, ignoreMerges]) === wanted;
  });
  if (name === undefined) throw unnamed(folder, "its normalizer and pre_tokenizer have no name that llama.cpp knows");
  return [
    ["tokenizer.ggml.pre", name],
    ["tokenizer.ggml.merges", model.merges],
  ];
}

/** JSON in which only what cuts a text is left: offsets are not used, and the order of keys says nothing. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (key, part: unknown) => {
    if (key === "trim_offsets") return undefined;
    if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
    if ("normalizers" in part && Array.isArray(part.normalizers) && part.normalizers.length === 0) return null;
    return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

/** llama.cpp merges the pair whose result has the best score: minus the rank of the merge that yields it. */
function sentencePieceEntries({ normalizer, model }: TokenizerJson, rows: number): Entry[] {
  const scores = new Float32Array(rows);
  for (const [rank, pair] of [...model.merges.entries()].reverse()) {
    const id = model.vocab[pair.replace(" ", "")];
    if (id !== undefined) scores[id] = -rank;
  }
  return [
    ["tokenizer.ggml.pre", "default"],
    ["tokenizer.ggml.scores", scores],
    ["tokenizer.ggml.add_space_prefix", canonical(normalizer).includes('"Prepend"')],
  ];
}

/** As the post-processor says, but in the classes of transformers that build it from `add_bos_token`. */
function opensWithBos({ post_processor }: TokenizerJson, config: z.infer<typeof CONFIG>): boolean {
  const { bos_token: bos, add_bos_token: adds, tokenizer_class: name } = config;
  if (bos === null || bos === undefined) return false;
  if (typeof adds === "boolean" && /Llama|Gemma|Cohere/.test(name ?? "")) return adds;
  const templates = findTemplates(post_processor);
  return templates.some((single) => (single[0] as { SpecialToken?: { id?: string } })?.SpecialToken?.id === bos);
}

function findTemplates(processor: unknown): unknown[][] {
  const { type, single, processors } = (processor ?? {}) as {
    type?: string;
    single?: unknown[];
    processors?: unknown[];
  };
  if (type === "TemplateProcessing" && Array.isArray(single)) return [single];
  return (processors ?? []).flatMap(findTemplates);
}

async function templateOf(folder: Folder, stored: z.infer<typeof CONFIG>["chat_template"]): Promise<string | null> {
  if (await folder.exists("chat_template.jinja"))
    return new TextDecoder().decode(await folder.read("chat_template.jinja"));
  if (typeof stored === "string") return stored;
  return stored?.find(({ name }) => name === "default")?.template ?? null;
}

function unnamed(folder: Folder, what: string): QdlError {
  return new QdlError("TOKENIZER_INVALID", `${folder.path}: ${what}`, {
    hint: "Export a Hugging Face folder (--format merged) and convert it with llama.cpp's convert_hf_to_gguf.py.",
    details: { path: folder.path },
  });
}
