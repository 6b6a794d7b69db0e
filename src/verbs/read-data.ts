// Data as a user names it: files, or folders of them.

import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { Sample } from "../data/batch.ts";
import { type Dataset, type DatasetOptions, loadDataset, splitHeldOut } from "../data/dataset.ts";
import { QdlError } from "../errors.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import { openFile, openFolder } from "../formats/node-files.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

export type DataNames = string | readonly string[];

/** Reads and tokenises. Throws FILE_NOT_FOUND, DATA_EMPTY (a folder without JSONL) and what `loadDataset` throws. */
export async function readData(names: DataNames, tokenizer: Tokenizer, options: DatasetOptions): Promise<Dataset> {
  const sources: ByteSource[] = [];
  try {
    for (const file of await filesOf(names)) sources.push(await openFile(file));
    return await loadDataset(sources, tokenizer, options);
  } finally {
    for (const source of sources) await source.close();
  }
}

export interface TrainingData {
  readonly train: readonly Sample[];
  readonly heldOut: readonly Sample[];
  /** Of the training file's samples. */
  readonly dataset: Dataset;
}

/** Training samples, and held-out ones from their own file or set aside from the same. */
export async function readTrainingData(
  names: DataNames,
  heldOut: string | number,
  tokenizer: Tokenizer,
  options: DatasetOptions,
  seed: number,
): Promise<TrainingData> {
  const dataset = await readData(names, tokenizer, options);
  if (typeof heldOut === "number") return { dataset, ...splitHeldOut(dataset.samples, heldOut, seed) };
  return { dataset, train: dataset.samples, heldOut: (await readData(heldOut, tokenizer, options)).samples };
}

async function filesOf(names: DataNames): Promise<string[]> {
  const files: string[] = [];
  for (const name of typeof names === "string" ? [names] : names) {
    const info = await stat(name).catch(() => null);
    files.push(...(info?.isDirectory() ? await filesIn(name) : [name]));
  }
  return files;
}

async function filesIn(folder: string): Promise<string[]> {
  const names = (await (await openFolder(folder)).list()).filter((name) => name.endsWith(".jsonl"));
  if (names.length > 0) return names.map((name) => join(folder, name));
  throw new QdlError("DATA_EMPTY", `data: ${folder} holds no .jsonl file, expected at least one`, {
    hint: 'Name a file of one JSON object a line, such as {"prompt": "…", "completion": "…"}.',
    details: { folder },
  });
}
