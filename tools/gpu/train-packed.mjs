// On a GPU machine, in a folder made by pack.mjs: `qdylora train` on real data packed to a shape, and what the process holds
// in host memory, from a checkpoint on disk. One JSON line per run, for comparison with tools/gpu/train.mjs.
// `node tools/gpu/train-packed.mjs MODEL DATA.jsonl --output RUN [--batch 16] [--seq 512] [--steps 60] [--warm-up 20] [--out FILE.jsonl]
// [-- further options of train]`. MODEL is a folder, e.g. of tools/make-checkpoint.mjs; DATA has rows of question and answer.

import { spawn } from "node:child_process";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { provenance } from "./provenance.mjs";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
const own = process.argv.slice(2);
const end = own.includes("--") ? own.indexOf("--") : own.length;
const { values, positionals } = parseArgs({
  args: own.slice(0, end),
  allowPositionals: true,
  options: {
    output: { type: "string" },
    batch: { type: "string", default: "16" },
    seq: { type: "string", default: "512" },
    steps: { type: "string", default: "60" },
    "warm-up": { type: "string", default: "20" },
    out: { type: "string", default: join(ROOT, "bench/results/cuda-shapes.jsonl") },
  },
});
const [model, data] = positionals;
const { output, batch, seq, steps } = values;
const every = ["--columns", "prompt=question,completion=answer", "--loss-on", "all", "--overlong", "drop", "--packing"];
const brief = ["--held-out", "0.002", "--ranks", "64", "--checkpoint-every", "0"];
const shape = ["--batch", batch, "--seq", seq, "--steps", steps, "--rank-max", "64"];
const paths = ["--model", model, "--data", data, "--output", output];
const argv = ["train", ...paths, ...shape, ...every, ...brief, "--backend", "cuda", ...own.slice(end + 1)];

/** Milliseconds at which each line of the log was seen, to within a poll. */
const seenAt = [];
const events = join(output, "events.jsonl");
const lines = () => (existsSync(events) ? readFileSync(events, "utf8").split("\n").slice(0, -1) : []);
const highWater = (pid) => {
  const text = existsSync(`/proc/${pid}/status`) ? readFileSync(`/proc/${pid}/status`, "utf8") : "";
  return 1024 * Number(/VmHWM:\s*(\d+)/.exec(text)?.[1] ?? 0);
};

const startedAt = performance.now();
const child = spawn(process.execPath, [join(ROOT, "dist/cli/bin.js"), ...argv], {
  stdio: ["ignore", "inherit", "inherit"],
});
let [hostPeakBytes, loadedPeakBytes] = [0, 0];
const poll = setInterval(() => {
  const count = lines().length;
  while (seenAt.length < count) seenAt.push(performance.now());
  hostPeakBytes = Math.max(hostPeakBytes, highWater(child.pid));
  if (count <= 1) loadedPeakBytes = hostPeakBytes;
}, 20);
const status = await new Promise((resolve) => child.on("close", resolve));
clearInterval(poll);
if (status !== 0) process.exit(1);

const all = lines().map((text, i) => ({ ...JSON.parse(text), at: seenAt[i] ?? performance.now() }));
const done = all.filter(({ type }) => type === "step");
const [first, ...timed] = done.slice(Number(values["warm-up"]) - 1);
const tokens = timed.reduce((sum, step) => sum + step.tokens, 0);
const seconds = (timed.at(-1).at - first.at) / 1000;
const byTheirClock = tokens / timed.reduce((sum, step) => sum + step.tokens / step.tokensPerSecond, 0);
const rates = timed.map(({ tokensPerSecond }) => tokensPerSecond).sort((a, b) => a - b);
const line = {
  bench: `train-packed ${basename(model)} --batch ${batch} --seq ${seq}`,
  tokensPerSecond: tokens / seconds,
  stepsTokensPerSecond: byTheirClock,
  medianTokensPerSecond: rates[rates.length >> 1],
  steps: timed.length,
  tokens,
  firstStepSeconds: (done[0].at - startedAt) / 1000,
  losses: [done[0].loss, done.at(-1).loss],
  planBytes: all[0].planBytes,
  loadedPeakBytes,
  hostPeakBytes,
  ...provenance(ROOT),
};
console.log(JSON.stringify(line));
appendFileSync(values.out, `${JSON.stringify(line)}\n`);
