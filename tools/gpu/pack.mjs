// Makes one folder that holds all that a GPU machine needs to run the conformance suite and the benches, for machines that are
// reached by copying a folder: `node tools/gpu/pack.mjs FOLDER [--modules]`, copy it there, and start `sh run.sh`.
// The machine needs Node (20.19 or newer), NVIDIA's driver, NVRTC and cuBLASLt. --modules takes node_modules along, for a
// machine that has none above the folder.

import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
/** What the runs there do not read. */
const LEFT_OUT = /^(assets\/(?!base\/.*\.json$)|docs\/|bench\/results|test\/fixtures\/(?!parity\/))/;

const [target, ...flags] = process.argv.slice(2);
if (!target) throw new Error("usage: node tools/gpu/pack.mjs FOLDER [--modules]");
const git = (...args) => execFileSync("git", args, { cwd: ROOT, encoding: "utf8" });
const files = git("ls-files", "--cached", "--others", "--exclude-standard").trim().split("\n");
for (const file of files.filter((name) => !LEFT_OUT.test(name))) {
  mkdirSync(dirname(join(target, file)), { recursive: true });
  cpSync(join(ROOT, file), join(target, file));
}
// The command line as it was built last.
if (existsSync(join(ROOT, "dist"))) cpSync(join(ROOT, "dist"), join(target, "dist"), { recursive: true });
if (flags.includes("--modules")) cpSync(join(ROOT, "node_modules"), join(target, "node_modules"), { recursive: true });
// The folder has no .git: results name the commit all the same.
writeFileSync(join(target, "commit.txt"), git("describe", "--always", "--dirty"));
writeFileSync(join(target, "run.sh"), 'cd "$(dirname "$0")" && exec node tools/gpu/run.mjs "$@"\n');
