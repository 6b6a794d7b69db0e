import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { memorySource } from "../../src/formats/byte-source.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { checkpointName } from "../../src/train/checkpoint.ts";
import { EVENT_LOG } from "../../src/train/train.ts";
import type { Moment } from "./kill-child.ts";
import { STEPS, trainConfig, trainTiny } from "./tiny-run.ts";

const CHILD = path.join(import.meta.dirname, "kill-child.mjs");
let root: string;
let expected: Map<string, string>;

beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), "qdylora-kill-"));
  const folder = await openFolder(path.join(root, "whole"), { write: true });
  await trainTiny({ folder, config: trainConfig() });
  expected = await finalTensors(folder.path);
});
afterAll(() => rm(root, { recursive: true }));

/** Weights, moments and row counters of the last checkpoint, as hex. */
async function finalTensors(folder: string): Promise<Map<string, string>> {
  const file = await openSafetensors(memorySource(await readFile(path.join(folder, checkpointName(STEPS)))));
  const tensors = new Map<string, string>();
  for (const name of file.names) tensors.set(name, Buffer.from(await file.tensor(name).read()).toString("hex"));
  return tensors;
}

function runVictim(folder: string, moment: Moment): Promise<NodeJS.Signals | null> {
  const child = spawn(process.execPath, [CHILD, folder, JSON.stringify(moment)], { stdio: "inherit" });
  return new Promise((resolve) => child.on("exit", (_code, signal) => resolve(signal)));
}

// The run writes three checkpoints: after steps 2, 4 and 6.
const moments: Moment[] = [
  ...[0, 1, 3, 5].map((step) => ({ step })),
  ...(["before-temp", "half-written", "before-rename", "before-folder-fsync"] as const).flatMap((point) =>
    [1, 3].map((write) => ({ point, write })),
  ),
];

test.each(moments.map((moment) => [JSON.stringify(moment), moment] as const))(
  "killed at %s, a resume ends with the same bytes and every step once in the log",
  async (name, moment) => {
    const folder = path.join(root, name.replaceAll(/\W/g, ""));
    expect(await runVictim(folder, moment)).toBe("SIGKILL");
    await trainTiny({ folder: await openFolder(folder, { write: true }), config: trainConfig(), resume: true });
    expect(await finalTensors(folder)).toEqual(expected);
    const events = (await readFile(path.join(folder, EVENT_LOG), "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(events.filter(({ type }) => type === "step").map(({ step }) => step)).toEqual([0, 1, 2, 3, 4, 5]);
    expect((await readdir(folder)).sort()).toEqual([checkpointName(4), checkpointName(6), EVENT_LOG].sort());
  },
);
