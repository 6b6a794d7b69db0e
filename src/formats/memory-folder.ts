// A folder that is made of texts in memory, for files that hold what a model's folder would. Nothing can be written to it.

import { QdlError } from "../errors.ts";
import { memorySource } from "./byte-source.ts";
import type { Folder } from "./folder.ts";

/** `path` is for messages. */
export function memoryFolder(path: string, files: ReadonlyMap<string, Uint8Array>): Folder {
  const get = (name: string): Uint8Array => {
    const bytes = files.get(name);
    if (bytes) return bytes;
    throw new QdlError("FILE_NOT_FOUND", `${path}: it holds no ${name}`, { details: { path, name } });
  };
  const readOnly = async (name: string): Promise<never> => {
    throw new QdlError("WRITE_FAILED", `${path}: ${name} cannot be written into it`, { details: { path, name } });
  };
  return {
    path,
    exists: async (name) => files.has(name),
    list: async () => [...files.keys()].sort(),
    read: async (name) => get(name),
    open: async (name) => memorySource(get(name), `${path}: ${name}`),
    write: readOnly,
    append: readOnly,
    truncate: readOnly,
    remove: readOnly,
  };
}
