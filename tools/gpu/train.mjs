// On a GPU machine, in a folder made by pack.mjs: whole training steps and decoding of true model shapes. Appends one JSON line
// per measurement: the fields of `bench --json`, date, driver and commit.
// `node tools/gpu/train.mjs LIST.json [--out FILE.jsonl]`, where LIST holds the arguments of `qdylora bench`, a list each:
// [["train", "--shape", "llama-7b", "--batch", "16", "--seq", "512"], …]. A run that fails is told and does not stop the others.

import { spawnSync } from "node:child_process";
import { appendFileSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { provenance } from "./provenance.mjs";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { out: { type: "string", default: join(ROOT, "bench/results/cuda-shapes.jsonl") } },
});

let failed = 0;
for (const args of JSON.parse(readFileSync(positionals[0], "utf8"))) {
  const command = [join(ROOT, "dist/cli/bin.js"), "bench", ...args, "--backend", "cuda", "--json"];
  const { stdout, stderr, status } = spawnSync(process.execPath, command, { encoding: "utf8", maxBuffer: 1 << 26 });
  if (status !== 0) {
    failed++;
    console.log(`FAILED bench ${args.join(" ")}\n${stderr.slice(-2000)}`);
    continue;
  }
  const line = JSON.stringify({ bench: args.join(" "), ...JSON.parse(stdout), ...provenance(ROOT) });
  console.log(line);
  appendFileSync(values.out, `${line}\n`);
}
process.exitCode = failed === 0 ? 0 : 1;
