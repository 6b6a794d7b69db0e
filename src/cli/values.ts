// From raw flags and YAML entries to the typed values of a command. Every problem is collected; nothing is thrown here.

import { closest, type Problem } from "../verbs/problems.ts";
import type { CommandSpec } from "./command.ts";
import type { ConfigEntry } from "./config-file.ts";
import { flagName, OPTIONS, type OptionKey, specOf } from "./options.ts";

export interface Parsed {
  /** Valid values, the defaults filled in. */
  readonly values: Record<string, unknown>;
  readonly problems: readonly Problem[];
  /** Where each given value was written. */
  readonly paths: ReadonlyMap<string, string>;
}

/** Flags win over the config file, which wins over the defaults. */
export function parseValues(
  command: CommandSpec,
  flags: Readonly<Record<string, unknown>>,
  config: readonly ConfigEntry[],
): Parsed {
  const values: Record<string, unknown> = {};
  const problems: Problem[] = [];
  const paths = new Map<string, string>();
  const put = (key: OptionKey, raw: unknown, path: string): void => {
    paths.set(key, path);
    const parsed = specOf(key).type.schema.safeParse(raw);
    if (parsed.success) values[key] = parsed.data;
    else problems.push(valueProblem(key, raw, path));
  };
  for (const entry of config) {
    const key = command.options.find((name) => flagName(name) === entry.key);
    if (!key) problems.push(unknownKey(command, entry));
    else if (flags[key] === undefined) put(key, entry.value, entry.path);
  }
  for (const key of command.options) if (flags[key] !== undefined) put(key, flags[key], `--${flagName(key)}`);
  for (const key of command.required ?? []) if (!paths.has(key)) problems.push(missing(key));
  for (const key of command.options) if (!paths.has(key)) fillDefault(command, key, values);
  return { values, problems, paths };
}

function fillDefault(command: CommandSpec, key: OptionKey, values: Record<string, unknown>): void {
  const own = command.defaults?.[key];
  const value = own === undefined ? specOf(key).default : own;
  if (value !== undefined && value !== null) values[key] = value;
}

function valueProblem(key: OptionKey, raw: unknown, path: string): Problem {
  const { expected, choices } = specOf(key).type;
  const suggestion = choices && typeof raw === "string" ? closest(raw, choices) : undefined;
  return { key, path, got: raw, expected, ...(suggestion ? { suggestion } : {}) };
}

function unknownKey(command: CommandSpec, entry: ConfigEntry): Problem {
  const names = command.options.map(flagName);
  const suggestion = closest(flagName(entry.key).replaceAll("_", "-").toLowerCase(), names);
  return {
    key: entry.key,
    path: entry.path,
    got: entry.value,
    expected: `a setting of \`qdylora ${command.name}\``,
    because: "no setting has that name",
    ...(suggestion ? { suggestion } : {}),
  };
}

const missing = (key: OptionKey): Problem => ({
  key,
  path: `--${flagName(key)}`,
  expected: OPTIONS[key].type.expected,
});
