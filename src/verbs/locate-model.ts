// The bundled base beside what can be located anyhow: folders, files and hub ids.

import { resolve } from "node:path";
import { type LocatedModel, locateModel as locate } from "../formats/locate-model.ts";
import { openFolder } from "../formats/node-files.ts";
import type { HubProgress } from "../formats/node-hub.ts";
import { BUNDLED_BASE_NAME, bundledBase } from "./bundled.ts";

export interface DownloadSettings {
  /** Hears of a model's files that are fetched from the hub. */
  readonly onDownload?: ((progress: HubProgress) => void) | undefined;
}

/** `model` is a folder, a GGUF file, a hub id, or the name of the bundled base. Throws FILE_NOT_FOUND and what the hub throws. */
export async function locateModel(model: string, { onDownload }: DownloadSettings = {}): Promise<LocatedModel> {
  if (model === BUNDLED_BASE_NAME || resolve(model) === resolve(bundledBase()))
    return { folder: await openFolder(bundledBase()), ggufFile: null, name: BUNDLED_BASE_NAME, revision: null };
  return locate(model, { onProgress: onDownload });
}
