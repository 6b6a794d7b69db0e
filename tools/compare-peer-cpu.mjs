// Our training step beside the peers' (bench-peer-cpu.py, both of its recipes) on the same machine, alternating, so that
// drift hits all alike.
//   QDYLORA_PYTHON=python node tools/compare-peer-cpu.mjs [--rounds 3] [--seconds 10]
// Needs a build, and Python with torch, transformers, peft and bitsandbytes. Writes bench/results/cpu-peer-DATE.json.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const { values } = parseArgs({
  options: { rounds: { type: "string", default: "3" }, seconds: { type: "string", default: "10" } },
});
const RECIPES = ["plain", "prepared"];
const folder = mkdtempSync(join(tmpdir(), "qdylora-peer-"));
const python = process.env.QDYLORA_PYTHON ?? "python3";

function json(command, args) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: ROOT, encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} failed:\n${stderr}`);
  return JSON.parse(stdout.trim().split("\n").at(-1));
}

const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];

try {
  const shape = [
    "--shape",
    "smollm2-135m",
    "--rank-max",
    "64",
    "--batch",
    "4",
    "--seq",
    "256",
    "--seconds",
    values.seconds,
  ];
  const rounds = [];
  for (let round = 0; round < Number(values.rounds); round++) {
    const peers = RECIPES.map((recipe) =>
      json(python, ["tools/bench-peer-cpu.py", "--folder", folder, "--seconds", values.seconds, "--recipe", recipe]),
    );
    const { stdout } = spawnSync(process.execPath, ["dist/cli/bin.js", "bench", "train", ...shape, "--json"], {
      cwd: ROOT,
      encoding: "utf8",
    });
    const ours = JSON.parse(stdout);
    const ratios = peers.map((peer) => ours.tokensPerSecond / peer.tokensPerSecond);
    rounds.push({ ours, peers, ratios });
    const beside = peers.map(
      ({ recipe, tokensPerSecond }, i) => `${recipe} ${tokensPerSecond.toFixed(0)} (${ratios[i].toFixed(2)}×)`,
    );
    console.log(
      `ours ${ours.tokensPerSecond.toFixed(0)} tokens/s, ${(100 * ours.share).toFixed(1)} % of the peak; peer ${beside.join(", ")}`,
    );
  }
  const date = new Date().toISOString().slice(0, 10);
  const ratios = Object.fromEntries(
    RECIPES.map((recipe, i) => [recipe, median(rounds.map((round) => round.ratios[i]))]),
  );
  const result = { date, device: rounds[0].ours.device, ratios, rounds };
  mkdirSync(join(ROOT, "bench/results"), { recursive: true });
  writeFileSync(join(ROOT, `bench/results/cpu-peer-${date}.json`), `${JSON.stringify(result, null, 2)}\n`);
  console.log(`median ratios ${JSON.stringify(ratios)}`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
