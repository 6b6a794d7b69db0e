// `npm test`: type check, lint, dependency rule, then every test; ends with the line "N passed, N failed".
// A failed step counts as one failure. Exits non-zero on any failure, and when no test ran.
// Arguments are passed on to vitest: `npm test -- test/ops`.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { VERIFY_CHECKS } from "./verify-checks.mjs";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const STEPS = [
  { name: "types", command: ["node_modules/typescript/bin/tsc", "-p", "tsconfig.json"] },
  { name: "lint", command: ["node_modules/@biomejs/biome/bin/biome", "ci", "--error-on-warnings", "."] },
  { name: "dependency rule", command: ["tools/check-dependencies.mjs"] },
  { name: "build", command: ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"] },
  { name: "native library", command: ["dist/backends/cpu/build.js"] },
];

function node(args) {
  const began = Date.now();
  const { status } = spawnSync(process.execPath, args, { cwd: ROOT, stdio: "inherit" });
  return { ok: status === 0, seconds: ((Date.now() - began) / 1000).toFixed(1) };
}

function checkSteps() {
  let failed = 0;
  for (const { name, command } of STEPS) {
    const { ok, seconds } = node(command);
    console.log(`${ok ? "ok    " : "FAILED"} ${name} (${seconds} s)`);
    if (!ok) failed++;
  }
  return failed;
}

/** Runs vitest and counts from its own JSON report; a file that could not be loaded counts as one failure. */
function runTests(filters) {
  const folder = mkdtempSync(join(tmpdir(), "qdylora-test-"));
  const file = join(folder, "report.json");
  try {
    const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${file}`];
    const { ok } = node(["node_modules/vitest/vitest.mjs", "run", ...reporters, ...filters]);
    return countsOf(JSON.parse(readFileSync(file, "utf8")), ok);
  } catch (error) {
    console.error(`vitest gave no report: ${error.message}`);
    return { passed: 0, failed: 1 };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function countsOf(report, ok) {
  const broken = report.testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0);
  const failed = report.numFailedTests + broken.length;
  const unrun = report.numPendingTests + report.numTodoTests;
  if (unrun > 0) console.log(`${unrun} tests are marked as skipped or to do: each counts as failed`);
  // vitest may also fail for a reason outside any test (an unhandled rejection).
  return { passed: report.numPassedTests, failed: failed + unrun + (!ok && failed + unrun === 0 ? 1 : 0) };
}

const failedSteps = checkSteps();
const { passed, failed } = runTests(process.argv.slice(2));
if (VERIFY_CHECKS.length > 0) console.log("\nNot run here (each is a command of its own):");
for (const { script, what, needs } of VERIFY_CHECKS) console.log(`  npm run ${script}: ${what}. Needs ${needs}.`);
if (passed + failed === 0) console.log("no test ran");
console.log(`\n${passed} passed, ${failed + failedSteps} failed`);
process.exitCode = failed + failedSteps > 0 || passed === 0 ? 1 : 0;
