// `npm run verify:peft`: slices that our export writes, loaded by the real peft and transformers over a base that neither
// loaded nor quantised with our code (tools/verify-peft.py), give the logits that we compute in process at that rank.
// Needs a Python with torch, transformers, peft, safetensors and numpy: `python3`, or the one named in QDYLORA_PYTHON.
// Without it this fails. QDYLORA_PRINT=1 prints the table for docs/verify-results.md.

import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readAdapter, writeAdapter } from "../../src/adapter/file.ts";
import type { AdapterManifest } from "../../src/adapter/manifest.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import { bytesOf, encodeSafetensors } from "../../src/formats/safetensors.ts";
import { bundledBase, bundledData } from "../../src/verbs/bundled.ts";
import { exportAdapter } from "../../src/verbs/export-adapter.ts";
import { openModelFiles } from "../../src/verbs/open-model.ts";
import { train } from "../../src/verbs/train.ts";
import { adapterConfig, adapterWeights, CASE_NAMES, type CaseName, FAMILY_CASES, readCase } from "../parity/fixture.ts";
import { type BaseChoice, Lab, SETTINGS, type Setting } from "../parity/lab.ts";
import { python } from "./python.ts";

const TRAINED = "bundled base, trained";
const FIXTURES: readonly CaseName[] = [...CASE_NAMES, ...FAMILY_CASES];
const SCRIPT = fileURLToPath(new URL("../../tools/verify-peft.py", import.meta.url));
/** The first, one between the powers of two, and all. */
const RANKS = [1, 3, 8];
/** Bounds on ‖ours − peft's‖/‖peft's‖ of the logits. bf16 keeps 8 bits, and ten values a layer are rounded in a row. */
const LIMITS = { f32: 1e-5, bf16: 1.5e-2 };
/** The adapter must change the logits by this many times the error, or the comparison would say nothing. */
const CLEAR = 4;

interface Slice {
  readonly rank: number;
  readonly folder: string;
  readonly logits: string;
}

interface Request {
  readonly name: string;
  readonly base: string;
  readonly baseFormat: string;
  readonly doubleQuant: boolean;
  readonly sequences: readonly (readonly number[])[];
  readonly slices: readonly Slice[];
}

/** One line of the Python's answer. */
interface Verified {
  readonly case: string;
  readonly rank: number;
  readonly ranksInPeft: readonly number[];
  readonly rows: number;
  readonly relative: number;
  readonly worstRow: number;
  readonly adapterEffect: number;
  readonly sameTopToken: number;
}

const settings = SETTINGS.filter(({ backend }) => backend === "cpu");
/** Steps in which the bundled base learns enough for its adapter to show. */
const STEPS = 30;

let folder: string;
let answer: { readonly versions: Readonly<Record<string, string>>; readonly results: readonly Verified[] };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "qdylora-verify-"));
  const subjects: Subject[] = [await trainedSubject()];
  for (const name of FIXTURES) subjects.push(await fixtureSubject(name));
  const cases: Request[] = [];
  for (const subject of subjects) {
    const slices = await exportSlices(subject);
    for (const setting of settings) cases.push(await requestFor(subject, setting, slices));
  }
  const request = join(folder, "request.json");
  await writeFile(request, JSON.stringify({ cases }));
  answer = JSON.parse(await python([SCRIPT, request]));
  if (process.env.QDYLORA_PRINT) console.log(table());
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe("exported slices in real peft", () => {
  for (const { dtype } of settings)
    for (const name of [TRAINED, ...FIXTURES])
      for (const rank of RANKS)
        test(`${name} at rank ${rank} computed in ${dtype}`, () => {
          const limit = LIMITS[dtype];
          const found = answer.results.filter((r) => r.case === `${name}/${dtype}` && r.rank === rank);
          expect(found).toHaveLength(1);
          const [result] = found as [Verified];
          expect(result.ranksInPeft).toEqual([rank]);
          expect(result.rows).toBeGreaterThan(40);
          expect(result.relative).toBeLessThanOrEqual(limit);
          expect(result.worstRow).toBeLessThanOrEqual(2 * limit);
          expect(result.adapterEffect).toBeGreaterThanOrEqual(CLEAR * result.relative);
        });
});

test("a Python without peft is refused with what to do", async () => {
  // -S: no site-packages, so nothing but the standard library is found.
  await expect(python(["-S", SCRIPT, "unused.json"])).rejects.toThrow(/lacks .*peft.*pip install/);
});

/** A base, a whole adapter on disk, and what to feed them. */
interface Subject extends BaseChoice {
  readonly name: string;
  readonly adapter: string;
  readonly sequences: readonly (readonly number[])[];
}

/** The bundled base after a short run of our own training on the bundled data. */
async function trainedSubject(): Promise<Subject> {
  const adapter = join(folder, "trained");
  const { train: data, heldOut } = bundledData();
  const settings = { rankMax: 8, distribution: { kind: "range" }, lr: 3e-3, batch: 16, steps: STEPS, seed: 5 } as const;
  await train({ ...settings, model: bundledBase(), data, heldOut: 0, output: adapter, backend: "cpu" });
  await using files = await openModelFiles(bundledBase());
  const rows = readFileSync(heldOut, "utf8").split("\n").slice(0, 4);
  const texts = rows.map((row) => Object.values(JSON.parse(row) as Record<string, string>).join(" "));
  const sequences = texts.map((text) => [...files.tokenizer.encode(text, { addSpecial: true })]);
  return { name: TRAINED, modelPath: bundledBase(), baseFormat: "nf4", doubleQuant: true, adapter, sequences };
}

/** A fixture's model and random adapter, written as training would. */
async function fixtureSubject(name: CaseName): Promise<Subject> {
  const fixture = await readCase(name);
  const { modelPath, baseFormat, doubleQuant, rankMax } = fixture;
  const adapter = join(folder, `${name}-whole`);
  const unknown = "0".repeat(64);
  const manifest: AdapterManifest = {
    format: "qdylora-adapter/1",
    adapter: adapterConfig(fixture),
    base: {
      name: fixture.model,
      revision: null,
      family: fixture.config.family,
      sha256: unknown,
      format: baseFormat,
      blockSize: 64,
      doubleQuant,
      templateSha256: null,
    },
    scores: [],
    provenance: {
      qdylora: "0.0.0",
      node: process.versions.node,
      device: "test",
      instructionSet: "test",
      seed: 0,
      steps: 0,
      dataSha256: unknown,
      train: null,
    },
  };
  const weights = { rank: rankMax, tensors: adapterWeights(fixture) };
  await writeAdapter(await openFolder(adapter, { write: true }), weights, manifest);
  const sequences = fixture.sequences.map(({ tokens }) => tokens);
  return { name, modelPath, baseFormat, doubleQuant, adapter, sequences };
}

async function exportSlices({ name, adapter }: Subject): Promise<Pick<Slice, "rank" | "folder">[]> {
  const slices: Pick<Slice, "rank" | "folder">[] = [];
  for (const rank of RANKS) {
    const output = join(folder, `${name}-rank${rank}`);
    await exportAdapter({ adapter, rank, format: "peft", output });
    slices.push({ rank, folder: output });
  }
  return slices;
}

/** Computes our logits on the whole adapter at each rank, and describes the comparison. */
async function requestFor(
  subject: Subject,
  setting: Setting,
  slices: readonly Pick<Slice, "rank" | "folder">[],
): Promise<Request> {
  const { name, modelPath, baseFormat, doubleQuant, adapter, sequences } = subject;
  const { manifest, weights } = await readAdapter(await openFolder(adapter));
  await using lab = await Lab.over(subject, manifest.adapter, weights.tensors, setting);
  const columns = lab.model.config.vocabulary;
  const files = await openFolder(folder);
  const done: Slice[] = [];
  for (const slice of slices) {
    const file = `${name}-${setting.dtype}-rank${slice.rank}.safetensors`;
    const logits = await lab.logits(
      sequences.map((tokens) => ({ tokens })),
      slice.rank,
      1,
    );
    let row = 0;
    const tensors = sequences.map((tokens, i) => {
      const from = row * columns;
      row += tokens.length;
      const content = bytesOf(logits.subarray(from, row * columns));
      return { name: String(i), dtype: "F32" as const, shape: [tokens.length, columns], content };
    });
    await files.write(file, encodeSafetensors(tensors));
    done.push({ ...slice, logits: join(folder, file) });
  }
  return { name: `${name}/${setting.dtype}`, base: modelPath, baseFormat, doubleQuant, sequences, slices: done };
}

/** Markdown, for docs/verify-results.md. */
function table(): string {
  const versions = Object.entries(answer.versions).map(([name, version]) => `${name} ${version}`);
  const short = (value: number): string => value.toExponential(1);
  const lines = answer.results.map(
    (r) =>
      `| ${r.case} | ${r.rank} | ${short(r.relative)} | ${short(r.worstRow)} | ${short(r.adapterEffect)} | ${(100 * r.sameTopToken).toFixed(0)} % |`,
  );
  return [
    versions.join(", "),
    "",
    "| case/compute | rank | logits | worst row | adapter's effect | same top token |",
    "| --- | --- | --- | --- | --- | --- |",
    ...lines,
  ].join("\n");
}
