// Checks the dependency rule of ARCHITECTURE.md with dependency-cruiser, and checks the checker: it must have seen at least
// MINIMUM_MODULES modules, know every folder of src/, and catch planted violations. (Under a TypeScript it cannot drive, the cruiser sees no
// module and reports success.)

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { cruise } from "dependency-cruiser";
import extractTSConfig from "dependency-cruiser/config-utl/extract-ts-config";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const MINIMUM_MODULES = 40;
const config = createRequire(import.meta.url)("../.dependency-cruiser.cjs");

/** Files planted in a copy of the layout, with the rule that each must break. */
const PLANTED = [
  {
    file: "ops/planted.ts",
    text: 'import { run } from "../train/planted-target.ts";\nexport const x = run;\n',
    rule: "layer-ops",
  },
  {
    file: "model/planted.ts",
    text: 'import { readFileSync } from "node:fs";\nexport const x = readFileSync;\n',
    rule: "no-node-in-the-core",
  },
  {
    file: "cli/planted.ts",
    text: 'import { k } from "../backends/cpu/planted-target.ts";\nexport const x = k;\n',
    rule: "only-open-names-backends",
  },
  {
    file: "data/planted-a.ts",
    text: 'import { b } from "./planted-b.ts";\nexport const a = (): number => b();\n',
    rule: "no-cycles",
  },
  {
    file: "adapter/manifest.ts",
    text: 'import { x } from "../cli/planted.ts";\nexport const y = x;\n',
    rule: "exception-1",
  },
];
const PLANTED_TARGETS = {
  "train/planted-target.ts": "export const run = 1;\n",
  "backends/cpu/planted-target.ts": "export const k = 1;\n",
  "data/planted-b.ts": 'import { a } from "./planted-a.ts";\nexport const b = (): number => a();\n',
};

async function violationsIn(baseDir) {
  const { output } = await cruise(
    ["src"],
    { ...config.options, baseDir, validate: true, ruleSet: { forbidden: config.forbidden } },
    undefined,
    { tsConfig: extractTSConfig(join(ROOT, "tsconfig.json")) },
  );
  return {
    violations: output.summary.violations,
    modules: output.modules.filter((m) => m.source.startsWith("src/")).length,
  };
}

/** Every planted violation must be reported under its rule. */
async function selfTest() {
  const folder = mkdtempSync(join(tmpdir(), "qdylora-dependencies-"));
  try {
    for (const [file, text] of [...PLANTED.map((p) => [p.file, p.text]), ...Object.entries(PLANTED_TARGETS)]) {
      mkdirSync(dirname(join(folder, "src", file)), { recursive: true });
      writeFileSync(join(folder, "src", file), text);
    }
    const { violations } = await violationsIn(folder);
    return PLANTED.filter(
      ({ file, rule }) => !violations.some((v) => v.from === `src/${file}` && v.rule.name === rule),
    ).map(({ file, rule }) => `the planted violation in ${file} was not caught by ${rule}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const unknown = readdirSync(join(ROOT, "src")).filter((name) => !(name in config.layers));
const { violations, modules } = await violationsIn(ROOT);
const problems = [
  ...violations.map(
    (v) => `${v.rule.name}: ${v.from} → ${v.to}${v.cycle ? ` (${v.cycle.map((c) => c.name).join(" → ")})` : ""}`,
  ),
  ...unknown.map((name) => `src/${name} has no row in .dependency-cruiser.cjs`),
  ...(modules < MINIMUM_MODULES ? [`only ${modules} modules were seen, expected at least ${MINIMUM_MODULES}`] : []),
  ...(await selfTest()),
];
for (const problem of problems) console.error(problem);
console.log(`dependencies: ${modules} modules, ${problems.length} problems`);
process.exitCode = problems.length > 0 ? 1 : 0;
