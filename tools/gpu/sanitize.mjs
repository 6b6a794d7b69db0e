// On a GPU machine, in a folder made by pack.mjs, after the conformance suite has compiled its kernels once: the suite again
// under compute-sanitizer, an op each process, several at a time.
// `node tools/gpu/sanitize.mjs [--tools memcheck,racecheck] [--at-once 12] [--ops NAME,…] [--seconds 240]`. Ends with an error
// where a tool found something, where a test failed, and where an op was not through in the time.
// The kernels of cuBLASLt are left out of racecheck: they are not ours to mend, and take most of its time. Some of them end in
// a hardware exception where racecheck is loaded, whichever kernels it watches: ops that call them are run a sample each
// process, and the samples that this stops are counted as unchecked.

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

const CALLS_LIBRARY = ["adaptedLinears", "adaptedLinearsBackward"];
const LIBRARY_FAILED = "The Sanitizer failed to handle a hardware exception";
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** What one process each runs: an op's tests, by what their names begin with. */
function parts(tool, op) {
  if (tool !== "racecheck" || !CALLS_LIBRARY.includes(op)) return [{ tool, tests: `${op} ` }];
  return OPS[op].samples.map(({ name }) => ({ tool, tests: `${op} ${escaped(name)} \\(` }));
}

/** Tests under one tool. */
function check({ tool, tests }) {
  const suite = ["run", "--config", "test/verify/vitest.config.ts", "test/verify/cuda.test.ts"];
  const test = [process.execPath, VITEST, ...suite, "-t", `obeys the contract of ${tests}`];
  const env = { ...process.env, NO_COLOR: "1" };
  const child = spawn("compute-sanitizer", [...OPTIONS[tool], "--target-processes", "all", ...test], {
    cwd: ROOT,
    env,
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  const late = setTimeout(() => child.kill("SIGKILL"), Math.max(0, endsAt - Date.now()));
  const startedAt = Date.now();
  return new Promise((resolve) =>
    child.on("close", (status) => {
      clearTimeout(late);
      resolve({ name: `${tool} ${tests}`, ...verdict(output, status), seconds: (Date.now() - startedAt) / 1000 });
    }),
  );
}

function verdict(output, status) {
  const found = [...output.matchAll(/(?:ERROR|RACECHECK) SUMMARY: (.*)/g)].map(([, text]) => text);
  const tests = /Tests\s+(.*)/.exec(output)?.[1] ?? "not through";
  const ran = /[1-9]\d* passed/.test(tests);
  const clean = status === 0 && ran && found.length > 0 && found.every((text) => /^0 (errors|hazards)/.test(text));
  const word = clean ? "clean" : output.includes(LIBRARY_FAILED) ? "unchecked" : "FAILED";
  return { word, found, tests, text: word === "FAILED" ? output : "" };
}

const queue = values.tools.split(",").flatMap((tool) => values.ops.split(",").flatMap((op) => parts(tool, op)));
const counts = { clean: 0, unchecked: 0, FAILED: 0 };
async function work() {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const { name, word, found, tests, text, seconds } = await check(next);
    counts[word]++;
    console.log(`${word} ${name}: ${found.join("; ")}; ${tests} (${seconds.toFixed(0)} s)`);
    if (text) console.log(text.slice(0, 3000), "\n…\n", text.slice(-1500));
  }
}
await Promise.all(Array.from({ length: Number(values["at-once"]) }, work));
console.log(
  Object.entries(counts)
    .map(([word, count]) => `${count} ${word}`)
    .join(", "),
);
process.exitCode = counts.FAILED === 0 ? 0 : 1;
