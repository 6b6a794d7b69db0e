// The local cache of the Hugging Face hub, in the layout that all of its clients share:
//   CACHE/models--ORG--NAME/blobs/ETAG               contents, named by hash
//   CACHE/models--ORG--NAME/snapshots/COMMIT/FILE    links to blobs
//   CACHE/models--ORG--NAME/refs/REVISION            the commit that a branch or tag was when last seen

import { copyFile, mkdir, readFile, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileKind, writeAtomically } from "./node-files.ts";
import { checkRelativePath } from "./safe-path.ts";

export class HubCache {
  /** Folder of this repository in the cache. */
  readonly path: string;

  constructor(cacheFolder: string, id: string) {
    this.path = join(cacheFolder, `models--${id.replaceAll("/", "--")}`);
  }

  snapshot(commit: string): string {
    return join(this.path, "snapshots", commit);
  }

  /** Where the content of hash `etag` lies once it is complete. */
  blob(etag: string): string {
    return join(this.path, "blobs", etag);
  }

  /** The commit that `revision` names, as far as the cache knows. */
  async commitOf(revision: string): Promise<string | null> {
    if (isCommit(revision)) return revision;
    const text = await readFile(this.#ref(revision), "utf8").catch(() => "");
    return isCommit(text.trim()) ? text.trim() : null;
  }

  async remember(revision: string, commit: string): Promise<void> {
    if (revision !== commit) await writeAtomically(this.#ref(revision), new TextEncoder().encode(commit));
  }

  /** Whether the snapshot has the file, and its content is there. */
  async has(commit: string, name: string): Promise<boolean> {
    return (await fileKind(join(this.snapshot(commit), name))) === "file";
  }

  /** Makes the file of the snapshot a link to its blob; a copy where links are not allowed. */
  async link(commit: string, name: string, etag: string): Promise<void> {
    const path = join(this.snapshot(commit), name);
    await mkdir(dirname(path), { recursive: true });
    try {
      await symlink(relative(dirname(path), this.blob(etag)), path);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "EPERM") await copyFile(this.blob(etag), path);
      else if (code !== "EEXIST") throw error;
    }
  }

  #ref(revision: string): string {
    checkRelativePath(revision, "revision");
    return join(this.path, "refs", revision);
  }
}

export const isCommit = (text: string): boolean => /^[0-9a-f]{40}$/.test(text);
