// Data rows: one JSON object a line, of one of three kinds. A broken line is a value here, not an exception, so that the
// caller decides whether to skip it or to report it with its fellows.

import * as z from "zod";
import { QdlError } from "../errors.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import type { ChatMessage } from "../tokenizer/template.ts";
import { type Columns, renamed } from "./columns.ts";
import { jsonErrorColumn } from "./json-error.ts";
import { readLines } from "./lines.ts";

export type Row =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "completion"; readonly prompt: string; readonly completion: string }
  | { readonly kind: "chat"; readonly messages: readonly ChatMessage[] };

/** Where a row stands. `line` and `column` are 1-based; a column counts UTF-16 units of the line. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

/** Why a row cannot be used. */
export interface Fault extends Place {
  readonly reason: string;
  readonly column?: number;
}

export type RowResult = (Place & { readonly row: Row }) | Fault;

/** What a row may look like, for messages. */
export const ROW_SHAPES = '{"text": …}, {"prompt": …, "completion": …} or {"messages": [{"role": …, "content": …}, …]}';

const KINDS = {
  text: z.object({ text: z.string().min(1, "is empty") }),
  completion: z.object({ prompt: z.string(), completion: z.string().min(1, "is empty") }),
  chat: z.object({
    messages: z.array(z.looseObject({ role: z.string().min(1, "is empty"), content: z.string() })).min(1, "is empty"),
  }),
} as const;

/** Every row of a file, and every broken line in its place. Blank lines are passed over. Throws DATA_UNSUPPORTED. */
export async function* readRows(source: ByteSource, columns?: Columns): AsyncGenerator<RowResult> {
  refuseOtherFormats(source.name);
  for await (const { line, bytes } of readLines(source)) {
    const parsed = parseLine(bytes, columns);
    if (parsed !== null) yield { file: source.name, line, ...parsed };
  }
}

/** Parses one line: a row, why it is none, or null for a blank line. */
export function parseLine(
  bytes: Uint8Array,
  columns?: Columns,
): { row: Row } | { reason: string; column?: number } | null {
  const text = decodeUtf8(bytes);
  if (typeof text !== "string") return text;
  if (text.trim() === "") return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    const column = jsonErrorColumn(text);
    const found = text[column - 1];
    const what = found === undefined ? "the line ends too early" : `unexpected ${JSON.stringify(found)}`;
    return { reason: `not JSON: ${what}`, column };
  }
  return rowOf(value, columns);
}

/** A parsed JSON value as a row, or why it is none. */
export function rowOf(value: unknown, columns?: Columns): { row: Row } | { reason: string } {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    const got = Array.isArray(value) ? "an array" : value === null ? "null" : `a ${typeof value}`;
    return { reason: `is ${got}, expected an object such as ${ROW_SHAPES}` };
  }
  if (columns !== undefined) {
    const row = renamed(value as Record<string, unknown>, columns);
    return "reason" in row ? row : rowOf(row);
  }
  const keys = Object.keys(value);
  const kinds = (Object.keys(KINDS) as Row["kind"][]).filter((kind) =>
    Object.keys(KINDS[kind].shape).every((key) => keys.includes(key)),
  );
  const [kind] = kinds;
  if (kind === undefined) return { reason: `has the keys ${list(keys)}, expected ${ROW_SHAPES}${mapping(keys)}` };
  if (kinds.length > 1)
    return { reason: `has the keys ${list(keys)}, which fit ${kinds.join(" and ")}: keep one kind` };
  const result = KINDS[kind].safeParse(value);
  if (result.success) return { row: { kind, ...result.data } as Row };
  const issue = result.error.issues[0]!;
  return { reason: `${issue.path.join(".")}: ${issue.message}` };
}

/** Pairs of keys that are common elsewhere, as prompt and answer. */
const COMMON_PAIRS = [
  ["question", "answer"],
  ["instruction", "output"],
  ["instruction", "response"],
  ["input", "output"],
  ["query", "response"],
  ["prompt", "response"],
] as const;

/** How to say what the keys mean, where their names suggest it. */
function mapping(keys: readonly string[]): string {
  const pair = COMMON_PAIRS.find((names) => names.every((name) => keys.includes(name)));
  return pair ? `, or --columns prompt=${pair[0]},completion=${pair[1]}` : "";
}

function list(keys: readonly string[]): string {
  if (keys.length === 0) return "(none)";
  const shown = keys.slice(0, 12).map((key) => JSON.stringify(key.slice(0, 40)));
  return shown.join(", ") + (keys.length > shown.length ? `, and ${keys.length - shown.length} more` : "");
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array): string | { reason: string; column: number } {
  try {
    return strict.decode(bytes);
  } catch {
    return { reason: "not UTF-8", column: lenient.decode(bytes).indexOf("\uFFFD") + 1 };
  }
}

function refuseOtherFormats(name: string): void {
  const extension = /\.(csv|tsv|parquet|arrow|feather|xlsx|txt|md|gz|zst|bz2|xz|zip|tar)$/i.exec(name)?.[1];
  if (extension === undefined) return;
  throw new QdlError("DATA_UNSUPPORTED", `${name}: is a .${extension} file, expected JSON Lines (.jsonl)`, {
    hint: `Write one JSON object a line: ${ROW_SHAPES}.`,
    details: { file: name, extension },
  });
}
