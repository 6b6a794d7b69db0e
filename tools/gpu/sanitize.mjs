// On a GPU machine, in a folder made by pack.mjs, after the conformance suite has compiled its kernels once: the suite again
// under compute-sanitizer, an op each process, several at a time.
// `node tools/gpu/sanitize.mjs [--tools memcheck,racecheck] [--at-once 12] [--ops NAME,…] [--seconds 240]`. Ends with an error
// where a tool found something, where a test failed, and where an op was not through in the time.
// The kernels of cuBLASLt are left out of racecheck: they are not ours to mend, and take most of its time.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { OPS } from "../../dist/ops/index.js";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { values } = parseArgs({
  options: {
    tools: { type: "string", default: "memcheck,racecheck" },
    ops: { type: "string", default: Object.keys(OPS).join(",") },
    "at-once": { type: "string", default: "12" },
    seconds: { type: "string", default: "240" },
  },
});
const VITEST = join(dirname(createRequire(import.meta.url).resolve("vitest/package.json")), "vitest.mjs");
const LIBRARY_KERNELS = ["nvjet", "cutlass", "cublas", "gemm"];
const OPTIONS = {
  memcheck: ["--tool", "memcheck"],
  racecheck: ["--tool", "racecheck", ...LIBRARY_KERNELS.flatMap((name) => ["--kernel-name-exclude", `kns=${name}`])],
};
const endsAt = Date.now() + 1000 * Number(values.seconds);

/** One op's samples under one tool. */
function check(tool, op) {
  const suite = ["run", "--config", "test/verify/vitest.config.ts", "test/verify/cuda.test.ts"];
  const test = [process.execPath, VITEST, ...suite, "-t", `obeys the contract of ${op} `];
  const child = spawn("compute-sanitizer", [...OPTIONS[tool], "--target-processes", "all", ...test], { cwd: ROOT });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  const late = setTimeout(() => child.kill("SIGKILL"), Math.max(0, endsAt - Date.now()));
  const startedAt = Date.now();
  return new Promise((resolve) =>
    child.on("close", (status) => {
      clearTimeout(late);
      resolve({ tool, op, ...verdict(output, status), seconds: (Date.now() - startedAt) / 1000 });
    }),
  );
}

function verdict(output, status) {
  const found = [...output.matchAll(/(?:ERROR|RACECHECK) SUMMARY: (.*)/g)].map(([, text]) => text);
  const tests = /Tests\s+(.*)/.exec(output)?.[1] ?? "not through";
  const clean = status === 0 && found.length > 0 && found.every((text) => /^0 (errors|hazards)/.test(text));
  return { clean, found, tests, text: clean ? "" : output };
}

const queue = values.tools.split(",").flatMap((tool) => values.ops.split(",").map((op) => [tool, op]));
let unclean = 0;
async function work() {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const { tool, op, clean, found, tests, text, seconds } = await check(...next);
    if (!clean) unclean++;
    console.log(`${clean ? "clean" : "FAILED"} ${tool} ${op}: ${found.join("; ")}; ${tests} (${seconds.toFixed(0)} s)`);
    if (text) console.log(text.slice(0, 3000), "\n…\n", text.slice(-1500));
  }
}
await Promise.all(Array.from({ length: Number(values["at-once"]) }, work));
console.log(`${unclean} of them not clean`);
process.exitCode = unclean === 0 ? 0 : 1;
