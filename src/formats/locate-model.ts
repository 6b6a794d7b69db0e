// What a user calls a model → its files on this machine. It is a folder, a GGUF file, or a hub id ("org/name",
// "org/name@revision").

import { basename, dirname } from "node:path";
import { QdlError } from "../errors.ts";
import { beginsAsGguf } from "./gguf-header.ts";
import { fileKind, folderName, type NodeFolder, openFile, openFolder } from "./node-files.ts";
import { fetchHubModel, type HubOptions, parseHubId } from "./node-hub.ts";

export interface LocatedModel {
  readonly folder: NodeFolder;
  /** The GGUF file in that folder that is the model; null if the folder is. */
  readonly ggufFile: string | null;
  /** Hub id, or the last name of the folder or file. */
  readonly name: string;
  /** Commit of the hub; null for a folder or file. */
  readonly revision: string | null;
}

const GGUF_NAME = /\.gguf$/i;

/** Told by its name, or by its first bytes: Ollama's files have hashes for names. */
export async function isGgufFile(path: string): Promise<boolean> {
  if (GGUF_NAME.test(path)) return true;
  const file = await openFile(path);
  try {
    return await beginsAsGguf(file);
  } finally {
    await file.close();
  }
}

/**
 * Finds the model that `text` names: a folder or GGUF file if there is one, else a hub id, which is brought into the cache.
 * Throws FILE_NOT_FOUND, MODEL_UNSUPPORTED (another kind of file), and what `fetchHubModel` throws.
 */
export async function locateModel(text: string, options: HubOptions = {}): Promise<LocatedModel> {
  const kind = await fileKind(text);
  if (kind === "folder")
    return { folder: await openFolder(text), ggufFile: null, name: folderName(text), revision: null };
  if (kind === "file" && (await isGgufFile(text)))
    return { folder: await openFolder(dirname(text)), ggufFile: basename(text), name: basename(text), revision: null };
  if (kind === "file")
    throw new QdlError("MODEL_UNSUPPORTED", `model is the file ${text}, expected a folder, a .gguf file or a hub id`, {
      hint: "Name the folder that holds config.json and the safetensors files.",
      details: { model: text },
    });
  const hubId = parseHubId(text);
  if (!hubId || GGUF_NAME.test(text))
    throw new QdlError("FILE_NOT_FOUND", `model is "${text}", expected a folder or file that exists, or a hub id`, {
      hint: "Check the spelling and the folder you are in.",
      details: { model: text },
    });
  const { folder, revision } = await fetchHubModel(hubId, options);
  return { folder: await openFolder(folder), ggufFile: null, name: hubId.id, revision };
}
