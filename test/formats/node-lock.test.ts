import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { LOCK_FILE, lockFolder } from "../../src/formats/node-lock.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "qdylora-lock-"));
});
afterEach(() => rm(folder, { recursive: true }));

test("a held folder is refused with the holder's pid; a released one is free and left clean", async () => {
  const lock = await lockFolder(folder);
  await expect(lockFolder(folder)).rejects.toMatchObject({ code: "RUN_LOCKED", details: { pid: process.pid } });
  await lock[Symbol.asyncDispose]();
  expect(await readdir(folder)).toEqual([]);
  await using _again = await lockFolder(folder);
  expect(await readdir(folder)).toEqual([LOCK_FILE]);
});

test("the lock of a dead process is taken over", async () => {
  const child = spawn(process.execPath, ["-e", ""]);
  await new Promise((resolve) => child.on("exit", resolve));
  await writeFile(path.join(folder, LOCK_FILE), JSON.stringify({ pid: child.pid, startTime: null }));
  await using _lock = await lockFolder(folder);
  expect(JSON.parse(await readFile(path.join(folder, LOCK_FILE), "utf8"))).toMatchObject({ pid: process.pid });
});

test("a live process with the pid of a dead holder does not block", async () => {
  await writeFile(path.join(folder, LOCK_FILE), JSON.stringify({ pid: process.pid, startTime: "1" }));
  await using _lock = await lockFolder(folder);
});

test("a lock file cut off in the middle counts as dead", async () => {
  await writeFile(path.join(folder, LOCK_FILE), '{"pid":');
  await using _lock = await lockFolder(folder);
});

test("of many that find the same dead lock, one gets it", async () => {
  await writeFile(path.join(folder, LOCK_FILE), "");
  const results = await Promise.allSettled(Array.from({ length: 20 }, () => lockFolder(folder)));
  expect(results.filter(({ status }) => status === "fulfilled").length).toBe(1);
});
