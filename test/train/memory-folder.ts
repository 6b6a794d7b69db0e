// A folder in memory, with a count of writes after which it fails: what a full disk does to a run.

import { QdlError } from "../../src/errors.ts";
import { memorySource } from "../../src/formats/byte-source.ts";
import type { Folder } from "../../src/formats/folder.ts";

export class MemoryFolder implements Folder {
  readonly path = "memory";
  readonly files = new Map<string, Uint8Array>();
  writesLeft = Number.POSITIVE_INFINITY;

  exists(name: string): Promise<boolean> {
    return Promise.resolve(this.files.has(name));
  }

  list(): Promise<string[]> {
    return Promise.resolve([...this.files.keys()]);
  }

  read(name: string): Promise<Uint8Array> {
    const bytes = this.files.get(name);
    if (!bytes) throw new QdlError("FILE_NOT_FOUND", `${name} does not exist`);
    return Promise.resolve(bytes);
  }

  async open(name: string) {
    return memorySource(await this.read(name), name);
  }

  async write(name: string, content: Uint8Array | AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of content instanceof Uint8Array ? [content] : content) chunks.push(chunk);
    if (this.writesLeft-- <= 0) throw new QdlError("WRITE_FAILED", `${name} could not be written: the disk is full`);
    this.files.set(name, new Uint8Array(await new Blob(chunks as BlobPart[]).arrayBuffer()));
  }

  append(name: string, text: string): Promise<void> {
    const before = this.files.get(name) ?? new Uint8Array();
    const line = new TextEncoder().encode(text);
    const joined = new Uint8Array(before.length + line.length);
    joined.set(before);
    joined.set(line, before.length);
    this.files.set(name, joined);
    return Promise.resolve();
  }

  truncate(name: string, bytes: number): Promise<void> {
    this.files.set(name, this.files.get(name)!.slice(0, bytes));
    return Promise.resolve();
  }

  remove(name: string): Promise<void> {
    this.files.delete(name);
    return Promise.resolve();
  }

  text(name: string): string {
    return new TextDecoder().decode(this.files.get(name));
  }
}
