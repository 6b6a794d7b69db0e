import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";
import { QdlError } from "../../src/errors.ts";
import { createFolder, openFile, openFolder, type WritePoint } from "../../src/formats/node-files.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const temporary = () => mkdtemp(join(tmpdir(), "qdl-files-"));
const POINTS: WritePoint[] = ["before-temp", "half-written", "before-rename", "before-folder-fsync"];

test("write, read, list, append, truncate, remove", async () => {
  const folder = await openFolder(join(await temporary(), "new", "deep"), { write: true });
  expect(await folder.exists("a")).toBe(false);
  await folder.write("a", bytes("first"));
  await folder.write("a", [bytes("sec"), new Uint8Array(0), bytes("ond")]);
  await folder.write("sub/b", bytes("x"));
  expect(await folder.read("a")).toEqual(bytes("second"));
  expect(await folder.list()).toEqual(["a"]);
  expect(await folder.exists("sub/b")).toBe(true);
  await folder.append("log", "one\n");
  await folder.append("log", "two\n");
  await folder.truncate("log", 4);
  expect(new TextDecoder().decode(await folder.read("log"))).toBe("one\n");
  await folder.truncate("nothing", 0);
  await expect(folder.truncate("log", 9)).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  await folder.remove("log");
  await folder.remove("log");
  expect(await folder.list()).toEqual(["a"]);
});

test("large and streamed content arrives whole; empty content makes an empty file", async () => {
  const folder = await openFolder(await temporary(), { write: true });
  const large = Uint8Array.from({ length: (2 << 20) + 7 }, (_, i) => i * 31);
  await folder.write("large", large);
  expect(Buffer.compare(await folder.read("large"), large)).toBe(0);
  const stream = async function* () {
    for (let at = 0; at < large.length; at += 99_991) yield large.subarray(at, at + 99_991);
  };
  await folder.write("streamed", stream());
  expect(Buffer.compare(await folder.read("streamed"), large)).toBe(0);
  await folder.write("empty", []);
  expect((await folder.read("empty")).length).toBe(0);
});

test("a folder made in one step: all or nothing, and never over something", async () => {
  const parent = await temporary();
  const path = join(parent, "deep", "new");
  const fill = async (folder: { write: (name: string, content: Uint8Array) => Promise<void> }) => {
    await folder.write("a", bytes("whole"));
    await folder.write("sub/b", bytes("too"));
  };
  const boom = new Error("boom");
  const failing = createFolder(path, async (folder) => {
    await fill(folder);
    throw boom;
  });
  await expect(failing).rejects.toBe(boom);
  expect(await readdir(join(parent, "deep"))).toEqual([]);
  await mkdir(path);
  expect(await createFolder(path, async (folder) => fill(folder).then(() => 7))).toBe(7);
  expect(await readdir(join(parent, "deep"))).toEqual(["new"]);
  expect(await readFile(join(path, "sub/b"), "utf8")).toBe("too");
  await expect(createFolder(path, fill)).rejects.toMatchObject({ code: "FILE_EXISTS" });
  await expect(createFolder(join(path, "a"), fill)).rejects.toMatchObject({ code: "FILE_EXISTS" });
  await expect(createFolder(join(path, "a", "b"), fill)).rejects.toMatchObject({ code: "WRITE_FAILED" });
  expect(await readFile(join(path, "a"), "utf8")).toBe("whole");
});

const REFUSALS = [
  ["ENOSPC", "disk is full"],
  ["EACCES", "permissions"],
] as const;
for (const [errno, hint] of REFUSALS)
  for (const point of POINTS.slice(0, 3))
    test(`${errno} ${point} leaves the old file and no temporary one`, async () => {
      const path = await temporary();
      await (await openFolder(path, { write: true })).write("a", bytes("old"));
      const hook = (at: WritePoint) => {
        if (at === point) throw Object.assign(new Error("refused by the system"), { code: errno });
      };
      const folder = await openFolder(path, { write: true, hook });
      await expect(folder.write("a", bytes("new content"))).rejects.toMatchObject({
        code: "WRITE_FAILED",
        hint: expect.stringContaining(hint),
        details: { path: join(path, "a"), errno },
      });
      expect(await readdir(path)).toEqual(["a"]);
      expect(await readFile(join(path, "a"), "utf8")).toBe("old");
    });

test("an error of the producer passes through as it is, and nothing is left", async () => {
  const folder = await openFolder(await temporary(), { write: true });
  const failure = new QdlError("TENSOR_NONFINITE", "NaN");
  const content = function* () {
    yield bytes("some");
    throw failure;
  };
  await expect(folder.write("a", content())).rejects.toBe(failure);
  expect(await readdir(folder.path)).toEqual([]);
});

test("a process killed at any point leaves the old or the new file whole; its temporary files go at the next opening", async () => {
  const script = await writerScript();
  for (const point of POINTS) {
    const path = await temporary();
    await writeFile(join(path, "a"), "old");
    await killedWriter(script, path, point);
    const content = await readFile(join(path, "a"), "utf8");
    expect(content).toBe(point === "before-folder-fsync" ? "new content" : "old");
    const left = (await readdir(path)).length;
    expect(left).toBe(point === "half-written" || point === "before-rename" ? 2 : 1);
    await openFolder(path);
    expect((await readdir(path)).length).toBe(left);
    await openFolder(path, { write: true });
    expect(await readdir(path)).toEqual(["a"]);
  }
});

test("temporary files of a live process stay", async () => {
  const path = await temporary();
  const name = `.a.${process.ppid}.0.qdl-tmp`;
  await writeFile(join(path, name), "x");
  const folder = await openFolder(path, { write: true });
  expect(await readdir(path)).toEqual([name]);
  expect(await folder.list()).toEqual([]);
});

test("names that leave the folder are refused", async () => {
  const folder = await openFolder(await temporary(), { write: true });
  for (const name of ["../a", "/etc/passwd", "a/../../b", "", ".", "a//b", "a\\b", "C:/a", "a\0b"]) {
    await expect(folder.read(name)).rejects.toMatchObject({ code: "PATH_UNSAFE" });
    await expect(folder.write(name, bytes("x"))).rejects.toMatchObject({ code: "PATH_UNSAFE" });
  }
});

test("missing, unreadable and lying files have their codes", async () => {
  const path = await temporary();
  await expect(openFolder(join(path, "no"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  await writeFile(join(path, "file"), "12345");
  await expect(openFolder(join(path, "file"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  await expect(openFolder(join(path, "file", "sub"), { write: true })).rejects.toMatchObject({ code: "WRITE_FAILED" });
  const folder = await openFolder(path);
  await expect(folder.read("no")).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  await mkdir(join(path, "folder"));
  await expect(folder.read("folder")).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  await expect(folder.write("folder", bytes("x"))).rejects.toMatchObject({ code: "WRITE_FAILED" });
  await expect(folder.write("file/x", bytes("x"))).rejects.toMatchObject({ code: "WRITE_FAILED" });
  const source = await openFile(join(path, "file"));
  await expect(source.read(3, 3)).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  await writeFile(join(path, "file"), "1");
  await expect(source.read(0, 5)).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  await source.close();
  await symlink(join(path, "nowhere"), join(path, "broken"));
  await expect(folder.read("broken")).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
});

/** Runs `write("a", "new content")` in another process that kills itself at `point`. */
async function killedWriter(script: string, folder: string, point: WritePoint): Promise<void> {
  const child = spawn(process.execPath, [script, folder, point], { stdio: "inherit" });
  const signal = await new Promise((done) => child.on("exit", (_code, by) => done(by)));
  expect(signal).toBe("SIGKILL");
}

/** The writer as a script that plain Node runs: the modules it needs, with their types stripped. */
async function writerScript(): Promise<string> {
  const folder = await temporary();
  const { target, module } = { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext };
  for (const name of ["errors.ts", "formats/node-files.ts", "formats/byte-source.ts", "formats/safe-path.ts"]) {
    const compilerOptions = { target, module, rewriteRelativeImportExtensions: true, verbatimModuleSyntax: true };
    const source = await readFile(join("src", name), "utf8");
    const to = join(folder, name.replace(/ts$/, "js"));
    await mkdir(dirname(to), { recursive: true });
    await writeFile(to, ts.transpileModule(source, { compilerOptions }).outputText);
  }
  await writeFile(join(folder, "package.json"), '{"type":"module"}');
  const script = join(folder, "writer.js");
  const body = `import { openFolder } from "./formats/node-files.js";
    const [, , path, point] = process.argv;
    const hook = (at) => { if (at === point) process.kill(process.pid, "SIGKILL"); };
    const folder = await openFolder(path, { write: true, hook });
    await folder.write("a", new TextEncoder().encode("new content"));`;
  await writeFile(script, body);
  return script;
}
