// The example of README runs as it stands. Needs `npm run build`.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

test("the library example of README runs", () => {
  const [, example = ""] = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(ROOT, "README.md"), "utf8")) ?? [];
  expect(example.split("\n").length).toBeLessThanOrEqual(22);
  const folder = mkdtempSync(join(tmpdir(), "qdylora-readme-"));
  try {
    mkdirSync(join(folder, "node_modules"));
    symlinkSync(ROOT, join(folder, "node_modules/qdylora"), "dir");
    writeFileSync(join(folder, "package.json"), '{"private": true}');
    writeFileSync(join(folder, "example.mjs"), example);
    const { status, stdout, stderr } = spawnSync(process.execPath, ["example.mjs"], { cwd: folder, encoding: "utf8" });
    expect(status, stderr).toBe(0);
    expect(stdout).toMatch(/rank 0: held-out loss \d/);
    expect(existsSync(join(folder, "my-run-rank-2/adapter_config.json"))).toBe(true);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("README names only files that exist", () => {
  const text = readFileSync(join(ROOT, "README.md"), "utf8");
  const links = [...text.matchAll(/\]\((?!https?:)([^)#]+)\)/g)].map(([, path]) => path!);
  expect(links.length).toBeGreaterThan(5);
  for (const path of [
    ...links,
    ...[...text.matchAll(/`(src\/[\w.-]+|assets|test|tools|docs)`/g)].map(([, path]) => path!),
  ])
    expect(existsSync(join(ROOT, path)), path).toBe(true);
});
