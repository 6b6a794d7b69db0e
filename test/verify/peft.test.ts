// `npm run verify:peft`: slices that our export writes, loaded by the real peft and transformers over a base that neither
// loaded nor quantised with our code (tools/verify-peft.py), give the logits that we compute in process at that rank.
// Needs a Python with torch, transformers, peft, safetensors and numpy: `python3`, or the one named in QDYLORA_PYTHON.
// Without it this fails. QDYLORA_PRINT=1 prints the table for docs/verify-results.md.

import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeAdapter } from "../../src/adapter/file.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import { bytesOf, encodeSafetensors } from "../../src/formats/safetensors.ts";
import { exportAdapter } from "../../src/verbs/export-adapter.ts";
import { adapterConfig, adapterWeights, CASE_NAMES, type ParityCase, readCase } from "../parity/fixture.ts";
import { Lab, SETTINGS, type Setting } from "../parity/lab.ts";

const SCRIPT = fileURLToPath(new URL("../../tools/verify-peft.py", import.meta.url));
/** The first, one between the powers of two, and all. */
const RANKS = [1, 3, 8];
/** Bounds on ‖ours − peft's‖/‖peft's‖ of the logits. bf16 keeps 8 bits, and some thirty values in a row are rounded. */
const LIMITS = { f32: 1e-5, bf16: 1e-2 };
/** The adapter must change the logits by this many times the bound, or the comparison would say nothing. */
const CLEAR = 2;

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
let folder: string;
let answer: { readonly versions: Readonly<Record<string, string>>; readonly results: readonly Verified[] };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "qdylora-verify-"));
  const cases: Request[] = [];
  for (const name of CASE_NAMES) {
    const fixture = await readCase(name);
    const slices = await exportSlices(fixture);
    for (const setting of settings) cases.push(await requestFor(fixture, setting, slices));
  }
  const request = join(folder, "request.json");
  await writeFile(request, JSON.stringify({ cases }));
  answer = JSON.parse(await python([SCRIPT, request]));
  if (process.env.QDYLORA_PRINT) console.log(table());
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe("exported slices in real peft", () => {
  for (const { dtype } of settings)
    for (const name of CASE_NAMES)
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
          expect(result.adapterEffect).toBeGreaterThanOrEqual(CLEAR * limit);
        });
});

test("a Python without peft is refused with what to do", async () => {
  // -S: no site-packages, so nothing but the standard library is found.
  await expect(python(["-S", SCRIPT, "unused.json"])).rejects.toThrow(/lacks .*peft.*pip install/);
});

/** Writes the fixture's adapter at R as training would, and exports each rank of it. */
async function exportSlices(fixture: ParityCase): Promise<Pick<Slice, "rank" | "folder">[]> {
  const whole = join(folder, `${fixture.name}-whole`);
  const { rankMax, model, baseFormat, doubleQuant } = fixture;
  const adapter = adapterConfig(fixture);
  await writeAdapter(
    await openFolder(whole, { write: true }),
    { rank: rankMax, tensors: adapterWeights(fixture, 2) },
    {
      format: "qdylora-adapter/1",
      adapter,
      base: {
        name: model,
        revision: null,
        sha256: "0".repeat(64),
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
        dataSha256: "0".repeat(64),
        train: null,
      },
    },
  );
  const slices: Pick<Slice, "rank" | "folder">[] = [];
  for (const rank of RANKS) {
    const output = join(folder, `${fixture.name}-rank${rank}`);
    await exportAdapter({ adapter: whole, rank, format: "peft", output });
    slices.push({ rank, folder: output });
  }
  return slices;
}

/** Computes our logits on the whole adapter at each rank, and describes the comparison. */
async function requestFor(
  fixture: ParityCase,
  setting: Setting,
  slices: readonly Pick<Slice, "rank" | "folder">[],
): Promise<Request> {
  const { name, modelPath, baseFormat, doubleQuant, sequences } = fixture;
  await using lab = await Lab.open(fixture, setting);
  const columns = lab.model.config.vocabulary;
  const files = await openFolder(folder);
  const done: Slice[] = [];
  for (const slice of slices) {
    const file = `${name}-${setting.dtype}-rank${slice.rank}.safetensors`;
    const logits = await lab.logits(sequences, slice.rank, 1);
    let row = 0;
    const tensors = sequences.map(({ tokens }, i) => {
      const from = row * columns;
      row += tokens.length;
      const content = bytesOf(logits.subarray(from, row * columns));
      return { name: String(i), dtype: "F32" as const, shape: [tokens.length, columns], content };
    });
    await files.write(file, encodeSafetensors(tensors));
    done.push({ ...slice, logits: join(folder, file) });
  }
  return {
    name: `${name}/${setting.dtype}`,
    base: modelPath,
    baseFormat,
    doubleQuant,
    sequences: sequences.map(({ tokens }) => tokens),
    slices: done,
  };
}

async function python(args: readonly string[]): Promise<string> {
  const interpreter = process.env.QDYLORA_PYTHON || "python3";
  try {
    const { stdout } = await promisify(execFile)(interpreter, args, { maxBuffer: 1 << 26 });
    return stdout;
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    if (code === "ENOENT")
      throw new Error(
        `${interpreter} was not found. Install Python with torch, transformers, peft, safetensors and numpy, or name one in QDYLORA_PYTHON.`,
      );
    throw new Error(stderr?.trim() || String(error));
  }
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
