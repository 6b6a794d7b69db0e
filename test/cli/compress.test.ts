// compress and train --init-adapter: from a LoRA in PEFT's layout to an adapter of every rank, on the reference backend.

import { afterAll, beforeAll, expect, test } from "vitest";
import { qdylora, TinyProject } from "./tiny-project.ts";

interface Rank {
  readonly rank: number;
  readonly missed: number;
  readonly loss: number;
}

let project: TinyProject;
const REFERENCE = ["--backend", "reference"];
const base = () => ["--model", project.path("model"), ...REFERENCE];

/** The JSON that a command prints. */
async function json<T>(...argv: string[]): Promise<T> {
  const { code, out, err } = await qdylora([...argv, "--json"]);
  expect(code, err).toBe(0);
  return JSON.parse(out) as T;
}

async function lossOf(adapter: string, rank: number): Promise<number> {
  const data = ["--data", project.path("test.jsonl"), "--ranks", String(rank)];
  const { ranks } = await json<{ ranks: Rank[] }>("eval", adapter, ...data, ...base());
  return ranks.at(-1)!.loss;
}

beforeAll(async () => {
  project = await TinyProject.create();
  const settings = [
    "--rank-max",
    "4",
    "--mode",
    "fixed",
    "--targets",
    "q_proj,down_proj",
    "--steps",
    "12",
    "--lr",
    "0.02",
  ];
  const data = ["--data", project.path("train.jsonl"), "--held-out", "0", "--batch", "4"];
  await json("train", ...data, ...settings, "--output", project.path("run"), ...base());
  // A LoRA of rank 4 as PEFT has it, with nothing of ours beside it.
  await json("export", project.path("run"), "--output", project.path("slice"));
  for (const name of ["adapter_config.json", "adapter_model.safetensors"])
    project.write(`lora/${name}`, project.bytes(`slice/${name}`));
});
afterAll(() => project[Symbol.dispose]());

test("compress: the largest rank is the LoRA, each rank misses less than the one before, and losses are what eval finds", async () => {
  const output = project.path("nested");
  const data = ["--data", project.path("test.jsonl"), "--ranks", "1,2,3,4"];
  const made = await json<{ ranks: Rank[]; rankMax: number; baseLoss: number }>(
    ...["compress", project.path("lora"), "--output", output, ...data, ...base()],
  );
  expect(made.rankMax).toBe(4);
  expect(made.ranks.map(({ rank }) => rank)).toEqual([1, 2, 3, 4]);
  const missed = made.ranks.map((rank) => rank.missed);
  expect(missed.at(-1)).toBe(0);
  expect(missed[0]).toBeLessThan(1);
  for (let i = 1; i < 4; i++) expect(missed[i]!).toBeLessThan(missed[i - 1]!);
  const whole = await lossOf(project.path("run"), 4);
  expect(Math.abs(whole - made.baseLoss)).toBeGreaterThan(0.05);
  expect(made.ranks[3]!.loss).toBeCloseTo(whole, 5);
  for (const rank of [1, 3]) expect(await lossOf(output, rank)).toBe(made.ranks[rank - 1]!.loss);
  const card = project.read("nested/README.md");
  expect(card).toContain(`| 1 | ${(100 * missed[0]!).toFixed(2)} % |`);
  expect(card).toContain(`| **4** | **${made.ranks[3]!.loss.toFixed(4)}** |`);
  // A cut of it is an adapter like any other.
  await json("export", output, "--rank", "2", "--output", project.path("nested-2"));
  expect(await lossOf(project.path("nested-2"), 2)).toBe(made.ranks[1]!.loss);
});

test("compress --rank-max keeps so many directions, without loading the model", async () => {
  const output = project.path("nested-small");
  const argv = ["compress", project.path("lora"), "--model", project.path("model"), "--output", output];
  const made = await qdylora([...argv, "--rank-max", "2"]);
  expect(made.code, made.err).toBe(0);
  expect(made.out).toMatch(/2 +\d+\.\d\d %/);
  const { adapter, base } = JSON.parse(project.read("nested-small/qdylora.json"));
  expect(adapter).toMatchObject({ rankMax: 2, scaleRule: "one", targets: ["q_proj", "down_proj"] });
  expect(base).toEqual(JSON.parse(project.read("run/qdylora.json")).base);
  const inspected = await qdylora(["inspect", output]);
  expect(inspected.code, inspected.err).toBe(0);
  expect(inspected.out).toMatch(/made from +lora \(SHA-256 [0-9a-f]{64}\)/);
  expect(inspected.out).not.toContain("training data");
});

test.each(["alpha/R", "one"])("a run with scale %s starts from the LoRA", async (scale) => {
  const output = project.path(`from-lora-${scale.replace("/", "-")}`);
  const flags = ["--rank-max", "8", "--steps", "1", "--lr", "1e-12", "--batch", "4", "--scale", scale];
  const data = ["--data", project.path("train.jsonl"), "--held-out", "0", "--init-adapter", project.path("lora")];
  await json("train", ...data, ...flags, "--output", output, ...base());
  const nested = await json<{ ranks: Rank[] }>(
    ...[
      "compress",
      project.path("lora"),
      "--output",
      `${output}-nested`,
      "--data",
      project.path("test.jsonl"),
      ...base(),
    ],
  );
  for (const { rank, loss } of nested.ranks) expect(await lossOf(output, rank)).toBeCloseTo(loss, 5);
  expect(await lossOf(output, 8)).toBeCloseTo(await lossOf(project.path("run"), 4), 5);
  expect(JSON.parse(project.read(`${output.slice(project.folder.length + 1)}/qdylora.json`))).toMatchObject({
    provenance: { train: { initialAdapterSha256: expect.stringMatching(/^[0-9a-f]{64}$/) } },
  });
});
