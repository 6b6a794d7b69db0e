// Runs a TypeScript file on any supported Node: `node bench/run.mjs bench/ops.ts [options]`. (Node 22.18 and newer also run
// it directly.)

import { resolve } from "node:path";
import { runnerImport } from "vite";

const file = process.argv[2];
if (!file) throw new Error("usage: node bench/run.mjs FILE.ts [options]");
await runnerImport(resolve(file), { configFile: false, logLevel: "error" });
