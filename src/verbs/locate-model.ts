// From what a user calls a model to its folder on this machine.

import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { QdlError } from "../errors.ts";
import { type NodeFolder, openFolder } from "../formats/node-files.ts";
import { BUNDLED_BASE_NAME, bundledBase } from "./bundled.ts";

export interface LocatedModel {
  readonly folder: NodeFolder;
  /** What an adapter remembers: the hub id, or the folder's last name. */
  readonly name: string;
  /** The hub's commit, or null for a folder. */
  readonly revision: string | null;
}

/** `model` is a folder, a hub id, or the name of the bundled base. Throws FILE_NOT_FOUND and what the hub throws. */
export async function locateModel(model: string): Promise<LocatedModel> {
  if (model === BUNDLED_BASE_NAME || resolve(model) === resolve(bundledBase()))
    return { folder: await openFolder(bundledBase()), name: BUNDLED_BASE_NAME, revision: null };
  if (await isFolder(model)) return { folder: await openFolder(model), name: basename(resolve(model)), revision: null };
  throw notFound(model);
}

const isFolder = async (path: string): Promise<boolean> => (await stat(path).catch(() => null))?.isDirectory() ?? false;

function notFound(model: string): QdlError {
  return new QdlError(
    "FILE_NOT_FOUND",
    `model: ${model} is no folder and no hub id, expected a folder with config.json or owner/name`,
    {
      hint: "Check the path, or name a model of the hub such as HuggingFaceTB/SmolLM2-135M.",
      details: { model },
    },
  );
}
