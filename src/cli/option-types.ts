// The kinds of values that options take: each reads a flag's text or a YAML value, and says what it expects.

import { z } from "zod";
import type { RankDistribution } from "../adapter/config.ts";
import { COLUMN_FIELDS, COLUMNS_EXPECTED, type Columns } from "../data/columns.ts";
import { type DTypeRule, OUTPUT_DTYPES } from "../formats/output-dtype.ts";
import { showDistribution } from "../verbs/settings-text.ts";

export interface OptionType<T> {
  /** Reads a flag's text or a value from YAML. */
  readonly schema: z.ZodType<T>;
  /** What stands in usage lines: `<n>`. Empty for a switch. */
  readonly placeholder: string;
  /** What is allowed, for messages and docs: "a whole number". */
  readonly expected: string;
  /** The allowed words, where they are few. */
  readonly choices?: readonly string[];
  /** How a value is written as a flag (defaults in help and docs). */
  show(value: T): string;
}

const fromText = <T>(read: (text: string) => unknown, schema: z.ZodType<T>): z.ZodType<T> =>
  z.preprocess((value) => (typeof value === "string" ? read(value.trim()) : value), schema);

const numberOf = (text: string): unknown => (text === "" ? text : Number(text));

export const text = (placeholder: string, expected = "text"): OptionType<string> => ({
  schema: z.string().min(1),
  placeholder,
  expected,
  show: (value) => value,
});

export const number = (placeholder = "x"): OptionType<number> => ({
  schema: fromText(numberOf, z.number()),
  placeholder,
  expected: "a number",
  show: String,
});

export const integer = (placeholder = "n"): OptionType<number> => ({
  schema: fromText(numberOf, z.int()),
  placeholder,
  expected: "a whole number",
  show: String,
});

export const flag = (): OptionType<boolean> => ({
  schema: fromText((value) => (value === "true" ? true : value === "false" ? false : value), z.boolean()),
  placeholder: "",
  expected: "true or false",
  choices: ["true", "false"],
  show: (value) => (value ? "on" : "off"),
});

export function choice<const C extends readonly [string, ...string[]]>(choices: C): OptionType<C[number]> {
  return {
    schema: z.enum(choices),
    placeholder: choices.join("|"),
    expected: `one of ${choices.join(", ")}`,
    choices,
    show: (value) => value,
  };
}

/** A comma-separated flag; a YAML list or one YAML value. */
function list<T>(item: z.ZodType<T>, placeholder: string, expected: string): OptionType<readonly T[]> {
  const split = (value: unknown): unknown => {
    if (typeof value === "string") return value.split(",").map((part) => part.trim());
    return Array.isArray(value) ? value : [value];
  };
  return { schema: z.preprocess(split, z.array(item).min(1)), placeholder, expected, show: (value) => value.join(",") };
}

export const integers = (placeholder: string): OptionType<readonly number[]> =>
  list(fromText(numberOf, z.int()), placeholder, "whole numbers, such as 1,2,4,8");

export const texts = (placeholder: string, expected: string): OptionType<readonly string[]> =>
  list(z.string().min(1), placeholder, expected);

/** One string, with \n and \t as escapes; several as a JSON list, or in YAML. */
export const strings = (): OptionType<readonly string[]> => ({
  schema: z.preprocess((value) => (typeof value === "string" ? stringsOf(value) : value), z.array(z.string()).min(1)),
  placeholder: "text",
  expected: 'a string such as "\\n\\n", or a JSON list of them',
  show: (value) => JSON.stringify(value),
});

function stringsOf(value: string): unknown {
  if (!value.startsWith("[")) return [value.replaceAll("\\n", "\n").replaceAll("\\t", "\t")];
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** A file name, or a number: a share of the data. */
export const pathOrShare = (): OptionType<string | number> => ({
  schema: fromText(
    (value) => (value !== "" && Number.isFinite(Number(value)) ? Number(value) : value),
    z.union([z.number(), z.string().min(1)]),
  ),
  placeholder: "file|share",
  expected: "a file, or a share of the data such as 0.05",
  show: String,
});

const UNITS: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};
const SIZE = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?b)$/i;

/** A size with its unit, in bytes. */
export const bytes = (): OptionType<number> => ({
  schema: fromText(sizeOf, z.number().positive()),
  placeholder: "size",
  expected: "a size with its unit, such as 24GiB or 900MB",
  show: (value) => `${value}B`,
});

function sizeOf(value: string): unknown {
  const match = SIZE.exec(value);
  const unit = UNITS[match?.[2]?.toLowerCase() ?? ""];
  return match && unit ? Math.floor(Number(match[1]) * unit) : value;
}

const numbersOf = (value: string): number[] =>
  value.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));

/** How ranks are drawn: `uniform`, `range`, `geometric:0.15`, `weights:1,1,2`, `mixture:0.5`. */
export const distribution = (): OptionType<RankDistribution> => ({
  schema: fromText(
    distributionOf,
    z.discriminatedUnion("kind", [
      z.strictObject({ kind: z.literal("uniform") }),
      z.strictObject({ kind: z.literal("range") }),
      z.strictObject({ kind: z.literal("geometric"), p: z.number() }),
      z.strictObject({ kind: z.literal("weights"), weights: z.array(z.number()).min(1) }),
      z.strictObject({ kind: z.literal("mixture"), share: z.number() }),
    ]),
  ),
  placeholder: "name[:value]",
  expected: "uniform, range, geometric:P, weights:W1,W2,… or mixture:SHARE",
  show: showDistribution,
});

/** `bf16`, or by part of a tensor's name: `bf16,norm=f32`. */
export const dtypes = (): OptionType<readonly DTypeRule[]> => ({
  schema: z.preprocess(
    (value) => (typeof value === "string" ? value.split(",").map(dtypeRule) : value),
    z.array(z.strictObject({ part: z.string(), dtype: z.enum(OUTPUT_DTYPES) })).min(1),
  ),
  placeholder: "dtype|part=dtype,…",
  expected: `${OUTPUT_DTYPES.join(", ")}, or by part of a tensor's name such as bf16,norm=f32`,
  show: (rules) => rules.map(({ part, dtype }) => (part === "" ? dtype : `${part}=${dtype}`)).join(","),
});

function dtypeRule(text: string): { part: string; dtype: string } {
  const [part, dtype] = text.trim().split("=");
  return dtype === undefined ? { part: "", dtype: part! } : { part: part!, dtype };
}

function distributionOf(value: string): unknown {
  const [kind = "", argument] = value.split(/:(.*)/s);
  if (argument === undefined) return { kind };
  if (kind === "geometric") return { kind, p: Number(argument) };
  if (kind === "mixture") return { kind, share: Number(argument) };
  return kind === "weights" ? { kind, weights: numbersOf(argument) } : value;
}

/** What the keys of a row mean: `prompt=question,completion=answer`, or a YAML mapping. */
export const columns = (): OptionType<Columns> => ({
  schema: fromText(
    (value) => Object.fromEntries(value.split(",").map((part) => part.trim().split(/=(.*)/s).slice(0, 2))),
    z.partialRecord(z.enum(COLUMN_FIELDS), z.string().min(1)),
  ),
  placeholder: "field=key,…",
  expected: COLUMNS_EXPECTED,
  show: (value) =>
    Object.entries(value)
      .map((pair) => pair.join("="))
      .join(","),
});
