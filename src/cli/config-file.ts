// A YAML file of settings: its values with the line of each, so that a message can say where.

import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { isMap, isScalar, LineCounter, parseDocument } from "yaml";
import { QdlError } from "../errors.ts";

export interface ConfigEntry {
  readonly key: string;
  readonly value: unknown;
  /** `run.yaml:3 rank-max`, for messages. */
  readonly path: string;
}

/** The top-level entries of the file. Throws FILE_NOT_FOUND, FILE_UNREADABLE, CONFIG_UNREADABLE. */
export async function readConfigFile(file: string): Promise<ConfigEntry[]> {
  const text = await readText(file);
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [error] = document.errors;
  if (error) {
    const { line, col } = lines.linePos(error.pos[0]);
    throw unreadable(file, `line ${line}, column ${col}: ${error.message}`, { line, column: col });
  }
  if (document.contents === null) return [];
  if (!isMap(document.contents)) throw unreadable(file, "it holds no `key: value` lines", {});
  return document.contents.items.map(({ key, value }) => {
    const name = isScalar(key) ? String(key.value) : String(key);
    const at = isScalar(key) && key.range ? lines.linePos(key.range[0]).line : 0;
    const plain = isScalar(value) || value === null ? (value?.value ?? null) : document.get(name, false);
    return { key: name, value: toPlain(plain), path: `${basename(file)}:${at} ${name}` };
  });
}

const toPlain = (value: unknown): unknown =>
  typeof value === "object" && value !== null && "toJSON" in value && typeof value.toJSON === "function"
    ? value.toJSON()
    : value;

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
    throw new QdlError(
      missing ? "FILE_NOT_FOUND" : "FILE_UNREADABLE",
      `config file: ${file} ${missing ? "does not exist" : "cannot be read"}`,
      {
        hint: "Name a YAML file, or give the settings as flags: `qdylora train --model M --data D --output DIR`.",
        details: { file },
        cause,
      },
    );
  }
}

function unreadable(file: string, reason: string, details: Record<string, unknown>): QdlError {
  return new QdlError("CONFIG_UNREADABLE", `config file: ${file} is not valid YAML: ${reason}`, {
    hint: "One setting a line, such as `rank-max: 32`; `qdylora train --help` lists them.",
    details: { file, ...details },
  });
}
