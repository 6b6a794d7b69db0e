// Rows whose keys have other names: which key of a row is the prompt, the answer, the user's words.

/** What a row's key can stand for. `system`, `user` and `assistant` make a conversation of one exchange. */
export const COLUMN_FIELDS = ["text", "prompt", "completion", "messages", "system", "user", "assistant"] as const;
export type ColumnField = (typeof COLUMN_FIELDS)[number];

/** Field → key of the row. */
export type Columns = Readonly<Partial<Record<ColumnField, string>>>;

/** The sets of fields that make a row; `system` may be left out. */
const WHOLE: readonly (readonly ColumnField[])[] = [
  ["text"],
  ["prompt", "completion"],
  ["messages"],
  ["user", "assistant"],
  ["system", "user", "assistant"],
];

/** For messages. */
export const COLUMNS_EXPECTED =
  "text=KEY, messages=KEY, prompt=KEY,completion=KEY or user=KEY,assistant=KEY (and system=KEY)";

/** Whether these fields make one kind of row. */
export function areWhole(columns: Columns): boolean {
  const given = COLUMN_FIELDS.filter((field) => columns[field] !== undefined);
  return WHOLE.some((fields) => fields.length === given.length && fields.every((field) => given.includes(field)));
}

/** The row under the names that rows have here, its other keys left out; or why it is none. */
export function renamed(row: Readonly<Record<string, unknown>>, columns: Columns): object | { reason: string } {
  const entries = Object.entries(columns) as [ColumnField, string][];
  const missing = entries.find(([, key]) => !Object.hasOwn(row, key));
  if (missing) {
    const keys = Object.keys(row).map((key) => JSON.stringify(key.slice(0, 40)));
    const found = keys.slice(0, 12).join(", ") || "(none)";
    return { reason: `has the keys ${found}, expected ${JSON.stringify(missing[1])} because it is the ${missing[0]}` };
  }
  const values = Object.fromEntries(entries.map(([field, key]) => [field, row[key]]));
  if (columns.user === undefined) return values;
  const roles = (["system", "user", "assistant"] as const).filter((role) => columns[role] !== undefined);
  return { messages: roles.map((role) => ({ role, content: values[role] })) };
}
