// The folder of a run: made if needed, locked while in use, never overwritten by accident, and gone again if nothing came
// to be written into it.

import { rmdir } from "node:fs/promises";
import { QdlError } from "../errors.ts";
import { type NodeFolder, openFolder } from "../formats/node-files.ts";
import { lockFolder } from "../formats/node-lock.ts";
import { listCheckpoints } from "../train/checkpoint.ts";
import { EVENT_LOG } from "../train/train.ts";

export interface RunFolder extends AsyncDisposable {
  readonly folder: NodeFolder;
}

/** Throws RUN_LOCKED, RUN_EXISTS (a run is there and is not to be resumed), FILE_EXISTS (other files), WRITE_FAILED. */
export async function openRunFolder(path: string, resume: boolean): Promise<RunFolder> {
  const folder = await openFolder(path, { write: true });
  const lock = await lockFolder(path);
  const dispose = async (): Promise<void> => {
    await lock[Symbol.asyncDispose]();
    // Only an empty folder goes away.
    await rmdir(path).catch(() => {});
  };
  try {
    if (!resume) await refuseExisting(folder);
    return { folder, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

async function refuseExisting(folder: NodeFolder): Promise<void> {
  if (
    !(await folder.exists(EVENT_LOG)) &&
    !(await folder.exists("qdylora.json")) &&
    (await listCheckpoints(folder)).length === 0
  )
    return;
  throw new QdlError("RUN_EXISTS", `output: ${folder.path} already holds a run, expected a new folder`, {
    hint: "Continue that run with --resume, or choose another --output.",
    details: { path: folder.path },
  });
}
