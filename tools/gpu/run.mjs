// On a GPU machine, in a folder made by pack.mjs: the verify:cuda tests, with every failure listed, then the benches.
// `node tools/gpu/run.mjs [--tests PATTERN] [--no-tests] [--bench FILE.ts,…] [--out FOLDER]`. Appends one JSON line per
// measurement to FOLDER/cuda.jsonl (default: bench/results): the fields of the bench, date, device, driver and commit.

import { spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { provenance } from "./provenance.mjs";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { values } = parseArgs({
  options: {
    tests: { type: "string" },
    "no-tests": { type: "boolean", default: false },
    bench: { type: "string", default: "bench/cuda-kernels.ts" },
    out: { type: "string", default: join(ROOT, "bench/results") },
  },
});

const node = (args, options = {}) =>
  spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8", maxBuffer: 1 << 28, ...options });

function runTests(pattern) {
  const report = join(ROOT, "report.json");
  rmSync(report, { force: true });
  const vitest = join(dirname(createRequire(import.meta.url).resolve("vitest/package.json")), "vitest.mjs");
  const { stderr, stdout } = node([
    vitest,
    "run",
    ...["--config", "test/verify/vitest.config.ts", "--reporter=json", `--outputFile=${report}`],
    "test/verify/cuda",
    ...(pattern ? ["-t", pattern] : []),
  ]);
  let results;
  try {
    results = JSON.parse(readFileSync(report, "utf8"));
  } catch {
    console.log(`no report:\n${stdout}\n${stderr}`);
    return false;
  }
  for (const file of results.testResults) {
    if (file.status === "failed" && file.message) console.log(`FAILED ${file.name}\n${file.message}`);
    for (const test of file.assertionResults)
      if (test.status === "failed")
        console.log(`FAILED ${test.fullName}\n    ${firstLines(test.failureMessages[0] ?? "", 3)}`);
  }
  console.log(
    `tests: ${results.numPassedTests} passed, ${results.numFailedTests} failed, ${results.numPendingTests} left out`,
  );
  return results.success;
}

const firstLines = (text, count) => text.split("\n").slice(0, count).join("\n    ");

function runBench(file) {
  const { stdout, stderr, status } = node(["bench/run.mjs", file]);
  if (status !== 0) console.log(`FAILED ${file}\n${stderr}`);
  const filed = provenance(ROOT);
  mkdirSync(values.out, { recursive: true });
  for (const line of stdout.split("\n").filter((text) => text.startsWith("{"))) {
    console.log(line);
    appendFileSync(join(values.out, "cuda.jsonl"), `${JSON.stringify({ ...JSON.parse(line), ...filed })}\n`);
  }
  return status === 0;
}

const good = [];
if (!values["no-tests"]) good.push(runTests(values.tests));
for (const file of values.bench.split(",").filter(Boolean)) good.push(runBench(file));
process.exitCode = good.every(Boolean) ? 0 : 1;
