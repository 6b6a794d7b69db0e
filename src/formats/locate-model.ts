// What a user calls a model → its folder on this machine. It is a folder, or a hub id ("org/name", "org/name@revision").

import { QdlError } from "../errors.ts";
import { fileKind, folderName, type NodeFolder, openFolder } from "./node-files.ts";
import { fetchHubModel, type HubOptions, parseHubId } from "./node-hub.ts";

export interface LocatedModel {
  readonly folder: NodeFolder;
  /** Hub id, or the folder's last name. */
  readonly name: string;
  /** Commit of the hub; null for a folder. */
  readonly revision: string | null;
}

/**
 * Finds the model that `text` names: a folder if there is one, else a hub id, which is brought into the cache.
 * Throws FILE_NOT_FOUND, MODEL_UNSUPPORTED (a file such as GGUF), and what `fetchHubModel` throws.
 */
export async function locateModel(text: string, options: HubOptions = {}): Promise<LocatedModel> {
  const kind = await fileKind(text);
  if (kind === "folder") return { folder: await openFolder(text), name: folderName(text), revision: null };
  if (kind === "file" || text.toLowerCase().endsWith(".gguf"))
    throw new QdlError("MODEL_UNSUPPORTED", `model is the file ${text}, expected a folder or a hub id`, {
      hint: "GGUF files are not read yet: name the folder that holds config.json and the safetensors files.",
      details: { model: text },
    });
  const hubId = parseHubId(text);
  if (!hubId)
    throw new QdlError("FILE_NOT_FOUND", `model is "${text}", expected a folder that exists or a hub id (org/name)`, {
      hint: "Check the spelling and the folder you are in.",
      details: { model: text },
    });
  const { folder, revision } = await fetchHubModel(hubId, options);
  return { folder: await openFolder(folder), name: hubId.id, revision };
}
