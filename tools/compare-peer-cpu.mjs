// Our training step beside the peers' (bench-peer-cpu.py) on the same machine, alternating, so that drift hits both alike.
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
    const peer = json(python, ["tools/bench-peer-cpu.py", "--folder", folder, "--seconds", values.seconds]);
    const { stdout } = spawnSync(process.execPath, ["dist/cli/bin.js", "bench", "train", ...shape, "--json"], {
      cwd: ROOT,
      encoding: "utf8",
    });
    const ours = JSON.parse(stdout);
    rounds.push({ ours, peer, ratio: ours.tokensPerSecond / peer.tokensPerSecond });
    console.log(
      `ours ${ours.tokensPerSecond.toFixed(0)}, peer ${peer.tokensPerSecond.toFixed(0)} tokens/s: ${rounds.at(-1).ratio.toFixed(2)}×; share of peak ${(100 * ours.share).toFixed(1)} %`,
    );
  }
  const date = new Date().toISOString().slice(0, 10);
  const result = { date, device: rounds[0].ours.device, ratio: median(rounds.map(({ ratio }) => ratio)), rounds };
  mkdirSync(join(ROOT, "bench/results"), { recursive: true });
  writeFileSync(join(ROOT, `bench/results/cpu-peer-${date}.json`), `${JSON.stringify(result, null, 2)}\n`);
  console.log(`median ratio ${result.ratio.toFixed(2)}×`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
