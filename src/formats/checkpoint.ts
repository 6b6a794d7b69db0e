// A Hugging Face model folder: config.json, and weights in one model.safetensors or in shards that
// model.safetensors.index.json lists. Files are opened and their headers checked; no weight is read here.

import { QdlError } from "../errors.ts";
import type { Folder } from "./folder.ts";
import { checkPlainName } from "./safe-path.ts";
import { openSafetensors, type SafetensorsFile, type StoredTensor } from "./safetensors.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

/** Files beside config and weights that belong to a model: its tokenizer, chat template and generation settings. */
export const COMPANION_FILES: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
];

export interface Checkpoint {
  /** For messages: the folder as the user knows it. */
  readonly name: string;
  readonly folder: Folder;
  /** config.json as it was written, for export. */
  readonly configJson: unknown;
  /** Names of the weight files, sorted. */
  readonly weightFiles: readonly string[];
  /** Names as stored. */
  readonly tensorNames: readonly string[];
  /**
   * The name under which a tensor is stored, or null. Names are asked for as the class for causal language models has them
   * ("model.layers.0…", "lm_head.weight"); checkpoints of the bare or of a wrapped model have other prefixes.
   */
  find(name: string): string | null;
  /** The tensor of that name, as `find` resolves it. Throws TENSOR_MISSING. */
  tensor(name: string): StoredTensor;
  close(): Promise<void>;
}

/**
 * Opens a model folder. Throws FILE_NOT_FOUND (config, weights or shards), MODEL_CONFIG_INVALID (broken JSON),
 * PATH_UNSAFE (a shard outside the folder), SAFETENSORS_INVALID, TENSOR_MISSING (the index names what no shard has).
 */
export async function openCheckpoint(folder: Folder): Promise<Checkpoint> {
  const configJson = await readJson(folder, "config.json");
  const index = await readWeightMap(folder);
  const weightFiles = index ? [...new Set(index.values())].sort() : [SINGLE_FILE];
  await requireFiles(folder, weightFiles, index !== null);
  const files = await openAll(folder, weightFiles);
  try {
    const tensors = collect(folder, files, index);
    return checkpointOver(folder, configJson, files, tensors);
  } catch (error) {
    await closeAll(files);
    throw error;
  }
}

/** Parses a JSON file of the folder. Throws FILE_NOT_FOUND, MODEL_CONFIG_INVALID. */
export async function readJson(folder: Folder, name: string): Promise<unknown> {
  const bytes = await folder.read(name);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new QdlError("MODEL_CONFIG_INVALID", `${folder.path}: ${name} is not valid JSON: ${reason}`, {
      hint: "The file is damaged or was not downloaded completely; fetch it again.",
      details: { path: folder.path, file: name },
      cause,
    });
  }
}

type Files = ReadonlyMap<string, SafetensorsFile>;

function checkpointOver(
  folder: Folder,
  configJson: unknown,
  files: Files,
  tensors: ReadonlyMap<string, StoredTensor>,
): Checkpoint {
  const prefixes = storedPrefix([...tensors.keys()]);
  const find = (name: string): string | null =>
    candidates(name, prefixes).find((stored) => tensors.has(stored)) ?? null;
  return {
    name: folder.path,
    folder,
    configJson,
    weightFiles: [...files.keys()],
    tensorNames: [...tensors.keys()],
    find,
    tensor: (name) => {
      const stored = find(name);
      if (stored !== null) return tensors.get(stored)!;
      throw new QdlError("TENSOR_MISSING", `${folder.path}: tensor "${name}" is not in the checkpoint`, {
        hint: "The checkpoint is incomplete, or config.json describes another model.",
        details: { path: folder.path, tensor: name },
      });
    },
    close: () => closeAll(files),
  };
}

/** Prefix of the inner model in the class for causal language models, and the embedding in it, by which it is found. */
const INNER_MODELS: readonly { readonly prefix: string; readonly embedding: string }[] = [
  { prefix: "model.", embedding: "embed_tokens.weight" },
  { prefix: "transformer.", embedding: "word_embeddings.weight" },
  { prefix: "transformer.", embedding: "wte.weight" },
  { prefix: "gpt_neox.", embedding: "embed_in.weight" },
];

/** What the inner model's names begin with, in the class and as stored ("model.", "", "language_model.model."). */
interface Prefixes {
  readonly asked: string;
  readonly stored: string;
}

function storedPrefix(names: readonly string[]): Prefixes {
  for (const { prefix, embedding } of INNER_MODELS) {
    const found = names.find((name) => name === embedding || name.endsWith(`.${embedding}`));
    if (found !== undefined) return { asked: prefix, stored: found.slice(0, -embedding.length) };
  }
  return { asked: "", stored: "" };
}

function candidates(name: string, { asked, stored }: Prefixes): string[] {
  if (name.startsWith(asked)) return [name, stored + name.slice(asked.length)];
  return [name, stored.slice(0, stored.endsWith(asked) ? -asked.length : undefined) + name];
}

/** Tensor name → shard; null if there is no index. */
async function readWeightMap(folder: Folder): Promise<Map<string, string> | null> {
  if (await folder.exists(SINGLE_FILE)) return null;
  if (!(await folder.exists(INDEX_FILE))) throw await noWeights(folder);
  const where = `${folder.path}/${INDEX_FILE}`;
  const json = (await readJson(folder, INDEX_FILE)) as { weight_map?: unknown } | null;
  const map = json?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map))
    throw new QdlError("MODEL_CONFIG_INVALID", `${where}: weight_map is ${typeof map}, expected an object`);
  const found = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== "string")
      throw new QdlError(
        "MODEL_CONFIG_INVALID",
        `${where}: weight_map["${tensor}"] is ${typeof file}, expected a string`,
      );
    checkPlainName(file, where);
    found.set(tensor, file);
  }
  return found;
}

async function noWeights(folder: Folder): Promise<QdlError> {
  const other = (await folder.list()).find((name) => /\.(bin|pth?|gguf|h5|msgpack)$/.test(name));
  const seen = other ? `; it has ${other}, which is not read` : "";
  return new QdlError("FILE_NOT_FOUND", `${folder.path}: neither ${SINGLE_FILE} nor ${INDEX_FILE} is there${seen}`, {
    hint: other?.endsWith(".gguf")
      ? `Name the GGUF file itself: ${folder.path}/${other}.`
      : "Name a folder that holds a Hugging Face model in safetensors format.",
    details: { path: folder.path },
  });
}

async function requireFiles(folder: Folder, names: readonly string[], sharded: boolean): Promise<void> {
  const present = await Promise.all(names.map((name) => folder.exists(name)));
  const missing = names.filter((_, i) => !present[i]);
  if (missing.length === 0) return;
  const reason = sharded ? ` that ${INDEX_FILE} names` : "";
  throw new QdlError("FILE_NOT_FOUND", `${folder.path}: weight files${reason} are missing: ${missing.join(", ")}`, {
    hint: "Download the missing files again.",
    details: { path: folder.path, missing },
  });
}

async function openAll(folder: Folder, names: readonly string[]): Promise<Files> {
  const files = new Map<string, SafetensorsFile>();
  try {
    for (const name of names) files.set(name, await openSafetensors(await folder.open(name)));
    return files;
  } catch (error) {
    await closeAll(files);
    throw error;
  }
}

async function closeAll(files: Files): Promise<void> {
  for (const file of files.values()) await file.close();
}

function collect(folder: Folder, files: Files, index: ReadonlyMap<string, string> | null): Map<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  if (index === null) {
    for (const file of files.values()) for (const name of file.names) tensors.set(name, file.tensor(name));
    return tensors;
  }
  for (const [name, shard] of index) {
    const file = files.get(shard)!;
    if (!file.has(name))
      throw new QdlError(
        "TENSOR_MISSING",
        `${folder.path}: tensor "${name}" is not in ${shard}, where the index puts it`,
        {
          hint: "Shards and index are of different versions; download the folder again.",
          details: { path: folder.path, tensor: name, shard },
        },
      );
    tensors.set(name, file.tensor(name));
  }
  return tensors;
}
