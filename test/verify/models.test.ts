// Part of `npm run verify:peft`: models that our export merges load in real transformers and bitsandbytes and give our logits;
// a LoRA made by real peft, sorted by `compress`, gives in peft what it gave before (tools/verify-models.py).
// QDYLORA_PRINT=1 prints the table for docs/verify-results.md.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readAdapter } from "../../src/adapter/file.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import { bytesOf, encodeSafetensors } from "../../src/formats/safetensors.ts";
import { bundledBase, bundledData } from "../../src/verbs/bundled.ts";
import { compress } from "../../src/verbs/compress.ts";
import { type ExportOptions, exportAdapter } from "../../src/verbs/export-adapter.ts";
import { openModelFiles } from "../../src/verbs/open-model.ts";
import { train } from "../../src/verbs/train.ts";
import { type BaseChoice, Lab, SETTINGS } from "../parity/lab.ts";
import { python } from "./python.ts";

const SCRIPT = fileURLToPath(new URL("../../tools/verify-models.py", import.meta.url));
const RANK = 3;
const F32 = SETTINGS.find(({ backend, dtype }) => backend === "cpu" && dtype === "f32")!;
const BASE: BaseChoice = { modelPath: bundledBase(), baseFormat: "nf4", doubleQuant: true };

interface Merge {
  readonly name: string;
  readonly settings: Partial<ExportOptions>;
  /** How the result is held here; null: the whole adapter over its base is what it must equal. */
  readonly held: BaseChoice["baseFormat"] | null;
}

const MERGES: readonly Merge[] = [
  { name: "merged f32, onto trained", settings: { dtype: "f32" }, held: null },
  { name: "merged bf16, onto trained", settings: { dtype: "bf16" }, held: "bf16" },
  { name: "merged bf16, onto original", settings: { dtype: "bf16", onto: "original", shardSize: 3e6 }, held: "bf16" },
  { name: "merged nf4, onto original", settings: { onto: "original", requantize: "nf4" }, held: "nf4" },
  { name: "merged fp4, onto trained", settings: { requantize: "fp4" }, held: "fp4" },
];
const ROUNDED = "slice with A in bf16, B in f16";
const COMPRESSED = "compressed LoRA of peft";

interface Result {
  readonly name: string;
  readonly dtype: string;
  readonly rows: number;
  readonly relative: number;
  readonly worstRow: number;
  readonly sameTopToken: number;
  readonly effect?: number;
}

let folder: string;
let answer: { readonly versions: Readonly<Record<string, string>>; readonly results: readonly Result[] };
const errors = new Map<string, { relative: number; ofUpdate: number }>();
const at = (name: string): string => join(folder, name.replaceAll(/\W+/g, "-"));

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "qdylora-verify-"));
  const adapter = at("trained");
  const { train: data, heldOut } = bundledData();
  const settings = { rankMax: 8, distribution: { kind: "range" }, lr: 3e-3, batch: 16, steps: 30, seed: 5 } as const;
  await train({ ...settings, model: bundledBase(), data, heldOut: 0, output: adapter, backend: "cpu" });
  const sequences = await heldOutSequences(heldOut);
  const models: { name: string; folder: string; logits: string }[] = [];
  for (const merge of MERGES) models.push(await mergedModel(adapter, merge, sequences));
  await python([SCRIPT, "make-lora", bundledBase(), at("lora")]);
  await compress({ adapter: at("lora"), model: bundledBase(), output: at("nested") });
  const rounding = [
    { part: "", dtype: "bf16" },
    { part: "lora_B", dtype: "f16" },
  ] as const;
  await exportAdapter({ adapter, rank: RANK, output: at("slice") });
  await exportAdapter({ adapter, rank: RANK, output: at("rounded"), dtype: rounding });
  const adapters = [
    { name: ROUNDED, base: bundledBase(), folder: at("rounded"), original: at("slice") },
    { name: COMPRESSED, base: bundledBase(), folder: at("nested"), original: at("lora") },
  ];
  await writeFile(at("request"), JSON.stringify({ sequences, models, adapters }));
  answer = JSON.parse(await python([SCRIPT, "compare", at("request")]));
  if (process.env.QDYLORA_PRINT) console.log(table());
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test.each(MERGES.map(({ name }) => name))("%s loads in transformers and gives our logits", (name) => {
  const found = answer.results.filter((result) => result.name === name);
  expect(found.length).toBe(/nf4|fp4/.test(name) ? 2 : 1);
  for (const { dtype, rows, relative, worstRow } of found) {
    // bitsandbytes' own kernels compute in bf16.
    const limit = dtype === "4-bit kernels" ? 2e-2 : 1e-5;
    expect(rows).toBeGreaterThan(40);
    expect(relative, dtype).toBeLessThanOrEqual(limit);
    expect(worstRow, dtype).toBeLessThanOrEqual(2 * limit);
  }
});

test("dtypes and errors are what was asked for", () => {
  const dtypes = Object.fromEntries(answer.results.map(({ name, dtype }) => [name, dtype]));
  expect(dtypes).toMatchObject({ "merged f32, onto trained": "float32", "merged bf16, onto original": "bfloat16" });
  expect(dtypes["merged nf4, onto original"]).toBe("4-bit");
  const error = (name: string) => errors.get(name)!.relative;
  expect(error("merged f32, onto trained")).toBe(0);
  expect(error("merged bf16, onto trained")).toBeLessThan(2 ** -8);
  expect(error("merged nf4, onto original")).toBeGreaterThan(0.05);
  expect(error("merged nf4, onto original")).toBeLessThan(0.15);
});

test("a slice in 16 bit loads in peft and is off by its rounding alone", () => {
  const [result] = answer.results.filter(({ name }) => name === ROUNDED);
  expect(result!.effect).toBeGreaterThan(0.05);
  expect(result!.relative).toBeGreaterThan(1e-6);
  expect(result!.relative).toBeLessThan(2 ** -8);
});

test("a LoRA of real peft, with ranks and alphas by pattern, computes in peft after compress what it did before", () => {
  const [result] = answer.results.filter(({ name }) => name === COMPRESSED);
  expect(result!.effect).toBeGreaterThan(0.05);
  expect(result!.relative).toBeLessThan(1e-6);
});

async function heldOutSequences(heldOut: string): Promise<number[][]> {
  await using files = await openModelFiles(bundledBase());
  const rows = (await readFile(heldOut, "utf8")).split("\n").slice(0, 4);
  const texts = rows.map((row) => Object.values(JSON.parse(row) as Record<string, string>).join(" "));
  return texts.map((text) => [...files.tokenizer.encode(text, { addSpecial: true })]);
}

/** Exports, and computes what the result must give. */
async function mergedModel(adapter: string, { name, settings, held }: Merge, sequences: readonly number[][]) {
  const output = at(name);
  const merged = { adapter, output, rank: RANK, format: "merged", model: bundledBase(), ...settings } as const;
  const { ranks } = await exportAdapter(merged);
  errors.set(name, ranks[0]!.error!);
  const { manifest, weights } = await readAdapter(await openFolder(adapter));
  const base = held === null ? BASE : { modelPath: output, baseFormat: held, doubleQuant: true };
  await using lab = await Lab.over(base, manifest.adapter, weights.tensors, F32);
  const prompts = sequences.map((tokens) => ({ tokens }));
  const logits = await lab.logits(prompts, held === null ? RANK : 0, 1);
  const columns = lab.model.config.vocabulary;
  let row = 0;
  const tensors = sequences.map((tokens, i) => {
    const content = bytesOf(logits.subarray(row * columns, (row + tokens.length) * columns));
    row += tokens.length;
    return { name: String(i), dtype: "F32" as const, shape: [tokens.length, columns], content };
  });
  const file = `${name.replaceAll(/\W+/g, "-")}.safetensors`;
  await (await openFolder(folder)).write(file, encodeSafetensors(tensors));
  return { name, folder: output, logits: join(folder, file) };
}

/** Markdown, for docs/verify-results.md. */
function table(): string {
  const versions = Object.entries(answer.versions).map(([name, version]) => `${name} ${version}`);
  const short = (value: number): string => value.toExponential(1);
  const percent = (value: number): string => `${(100 * value).toFixed(2)} %`;
  const lines = answer.results.map((r) => {
    const error = errors.get(r.name);
    const shares = error ? [percent(error.relative), percent(error.ofUpdate)] : ["", ""];
    const cells = [r.name, r.dtype, short(r.relative), short(r.worstRow), `${(100 * r.sameTopToken).toFixed(0)} %`];
    return `| ${[...cells, ...shares].join(" | ")} |`;
  });
  return [
    versions.join(", "),
    "",
    "| model | as loaded | logits | worst row | same top token | weights off by | of the adapter's share |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...lines,
  ].join("\n");
}
