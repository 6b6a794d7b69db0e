// What a user gets from the registry: the tarball, installed in an empty folder, does a job. Needs `npm run build`.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { VERIFY_CHECKS } from "../../tools/verify-checks.mjs";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const packageJson = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as {
  version: string;
  scripts: Record<string, string>;
};

let folder: string;
let app: string;
const npm = (args: string[], cwd: string): string =>
  execFileSync("npm", [...args, "--no-audit", "--no-fund"], {
    cwd,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "qdylora-package-"));
  npm(["pack", "--ignore-scripts", "--pack-destination", folder], ROOT);
  app = join(folder, "app");
  mkdirSync(app);
  writeFileSync(join(app, "package.json"), '{"name": "app", "private": true}');
  npm(
    [
      "install",
      "--ignore-scripts",
      "--prefer-offline",
      join(folder, readdirSync(folder).find((name) => name.endsWith(".tgz"))!),
    ],
    app,
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const npx = (...args: string[]) => spawnSync("npx", ["qdylora", ...args], { cwd: app, encoding: "utf8" });

test("npx qdylora --version", () => {
  expect(npx("--version").stdout).toBe(`${packageJson.version}\n`);
});

test("holds what it needs and no more", () => {
  const installed = join(app, "node_modules/qdylora");
  expect(readdirSync(installed).sort()).toEqual([
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "assets",
    "dist",
    "docs",
    "package.json",
    "src",
  ]);
  const sources = readdirSync(join(installed, "src"), { recursive: true, encoding: "utf8" });
  expect(sources.filter((name) => name.endsWith(".ts"))).toEqual([]);
});

// The compiler has the machine's cores to share with the other tests.
test("the bundled base speaks, through a library compiled on the spot", { timeout: 900_000 }, () => {
  const { status, stdout, stderr } = npx(
    "generate",
    "--model",
    "qdylora-base",
    "--prompt",
    "Once upon a time",
    "--max-new-tokens",
    "4",
    "--json",
  );
  expect(status, stderr).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ rank: 0, newTokens: 4 });
});

test("its types stand without its sources", () => {
  writeFileSync(
    join(app, "use.ts"),
    'import { train, type TrainOptions } from "qdylora";\nexport const options: TrainOptions = { model: "m", data: "d", output: "o" };\nexport const run = (): ReturnType<typeof train> => train(options);\n',
  );
  const flags = [
    "--noEmit",
    "--strict",
    "--module",
    "nodenext",
    "--target",
    "es2023",
    "--lib",
    "es2023,esnext.disposable",
    "--types",
    "node",
    "--typeRoots",
    join(ROOT, "node_modules/@types"),
    "use.ts",
  ];
  const { status, stdout } = spawnSync(
    process.execPath,
    [join(ROOT, "node_modules/typescript/bin/tsc"), "--ignoreConfig", ...flags],
    { cwd: app, encoding: "utf8" },
  );
  expect(status, stdout).toBe(0);
});

test("every verify script is listed with what it needs", () => {
  const scripts = Object.keys(packageJson.scripts).filter((name) => name.startsWith("verify:"));
  expect(VERIFY_CHECKS.map(({ script }) => script).sort()).toEqual(scripts.sort());
});
