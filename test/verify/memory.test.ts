// `npm run verify:memory`: processes of the command line over a checkpoint of 3 GB in four shards stay below 1.5 GB of
// resident memory (VmHWM): loading it in NF4, quantising it, sorting a LoRA for it, exporting and merging. The LoRA has rank 16 on
// all linears. QDYLORA_PRINT=1 prints the lines for docs/verify-results.md.

import { execFile, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openFolder } from "../../src/formats/node-files.ts";
import { writePeft } from "../../src/formats/peft.ts";
import { linearPath } from "../../src/model/families/index.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { randomStream } from "../../src/random/philox.ts";

const file = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const PROGRAM = file("dist/cli/bin.js");
const SHAPE = "tinyllama-1.1b";
const SHARDS = 4;
/** As many as make 3 GB of this shape. */
const LAYERS = 32;
const LIMIT = 1.5e9;
const LORA_RANK = 16;

let folder: string;
const at = (name: string): string => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "qdylora-memory-"));
  const script = [file("tools/make-checkpoint.mjs"), SHAPE, at("model"), String(SHARDS), String(LAYERS)];
  await promisify(execFile)(process.execPath, script);
  await writeLora();
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test("the checkpoint is as large as is said", async () => {
  const shards = (await readdir(at("model"))).filter((name) => name.endsWith(".safetensors"));
  expect(shards).toHaveLength(SHARDS);
  expect(await weightBytes(at("model"))).toBeGreaterThan(3e9);
});

const generate = ["--prompt", "Hello", "--max-new-tokens", "4"];
const merge = ["--format", "merged", "--rank", "8"];
// In order: some read what others wrote.
test.each([
  ["load in NF4 and generate", () => ["generate", "--model", at("model"), ...generate]],
  ["quantize", () => ["quantize", at("model"), "--output", at("nf4")]],
  ["load the 4-bit model and generate", () => ["generate", "--model", at("nf4"), ...generate]],
  ["compress a LoRA", () => ["compress", at("lora"), "--model", at("model"), "--output", at("run")]],
  ["export PEFT", () => ["export", at("run"), "--ranks", "1,4,16", "--output", at("slices")]],
  ["merge in 16 bit", () => ["export", at("run"), ...merge, "--model", at("model"), "--output", at("merged")]],
  [
    "merge and quantise again",
    () => ["export", at("run"), ...merge, "--model", at("model"), "--requantize", "nf4", "--output", at("merged-nf4")],
  ],
] as const)("%s", async (name, argv) => {
  const { peakBytes, seconds } = await run(argv());
  if (process.env.QDYLORA_PRINT)
    console.log(`| ${name} | ${Math.round(peakBytes / 1e6)} MB | ${seconds.toFixed(0)} s |`);
  expect(peakBytes).toBeLessThan(LIMIT);
  // Less would mean that it was not watched.
  expect(peakBytes).toBeGreaterThan(50e6);
});

test("the merged models are as large as they should be", async () => {
  expect(await weightBytes(at("merged"))).toBeGreaterThan(3e9);
  const quantised = await weightBytes(at("nf4"));
  expect(Math.abs((await weightBytes(at("merged-nf4"))) - quantised)).toBeLessThan(quantised / 1000);
});

async function weightBytes(path: string): Promise<number> {
  const names = (await readdir(path)).filter((name) => name.endsWith(".safetensors"));
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(path, name))).size));
  return sizes.reduce((a, b) => a + b, 0);
}

/** A LoRA of random values on every linear, written module by module. */
async function writeLora(): Promise<void> {
  const config = parseModelConfig(JSON.parse(await readFile(join(at("model"), "config.json"), "utf8")));
  const values = async (name: string, count: number): Promise<Float32Array> => {
    const stream = randomStream(1, name);
    return Float32Array.from({ length: count }, (_, i) => 0.02 * (stream.uniform(i) - 0.5));
  };
  const modules = Array.from({ length: config.layers }, (_, layer) =>
    config.block.linears.map(({ name, in: K, out: M }) => {
      const path = linearPath(config.family, layer, name);
      return {
        path,
        in: K,
        out: M,
        a: () => values(`${path}.A`, LORA_RANK * K),
        bTransposed: () => values(`${path}.B`, LORA_RANK * M),
      };
    }),
  ).flat();
  const scale = { rank: LORA_RANK, loraAlpha: 32, useRslora: false, baseModel: null, revision: null };
  await writePeft(await openFolder(at("lora"), { write: true }), { ...scale, modules });
}

/** Runs the command line; its largest resident memory as the kernel keeps it. Throws if it fails. */
async function run(argv: readonly string[]): Promise<{ peakBytes: number; seconds: number }> {
  const began = performance.now();
  const child = spawn(process.execPath, [PROGRAM, ...argv, "--json"], { stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  let peakBytes = 0;
  const watch = setInterval(async () => {
    const status = await readFile(`/proc/${child.pid}/status`, "utf8").catch(() => "");
    peakBytes = Math.max(peakBytes, 1024 * Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0));
  }, 20);
  const code = await new Promise<number | null>((done) => child.on("close", done));
  clearInterval(watch);
  if (code !== 0) throw new Error(`${argv.join(" ")}: exit code ${code}\n${errors}`);
  return { peakBytes, seconds: (performance.now() - began) / 1000 };
}
