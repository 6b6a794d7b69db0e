import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import type { Backend } from "../../src/backends/backend.ts";
import { openBackend } from "../../src/backends/open.ts";
import { type Checkpoint, openCheckpoint } from "../../src/formats/checkpoint.ts";
import { type FloatDType, toF16Words, toF32 } from "../../src/formats/float-convert.ts";
import type { Folder } from "../../src/formats/folder.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import type { OutputDType } from "../../src/formats/output-dtype.ts";
import { writeCheckpoint } from "../../src/formats/write-checkpoint.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { decodeWeight, type FourBitWeight } from "../../src/ops/frozen-weight.ts";
import { loadBase } from "../../src/quant/load-base.ts";
import {
  type LinearUpdate,
  type MergedCheckpoint,
  type MergeOptions,
  mergedCheckpoint,
} from "../../src/quant/merged-checkpoint.ts";
import { quantizeCheckpoint } from "../../src/quant/quantize-checkpoint.ts";
import { fromBf16, toBf16 } from "../../src/tensor/dtype.ts";
import { type TinyOptions, temporaryFolder, tinyValues, writeTiny } from "./tiny-model.ts";

const RANK = 3;
const SCALE = 1.5;
/** Only these have an update. */
const UPDATED = ["q_proj", "down_proj"];

const IDENTITY = { name: "tiny", revision: null, sha256: "0", templateSha256: null };
const linearName = (name: string): string => name.split(".").at(-2)!;
const layerOf = (name: string): string => /layers\.(\d+)\./.exec(name)![1]!;

function updateFor(rows: number, cols: number, key: string): LinearUpdate {
  const a = tinyValues(`${key}.A`, RANK * cols);
  return { rank: RANK, scale: SCALE, a, bTransposed: tinyValues(`${key}.B`, RANK * rows) };
}

/** W + s·B·A in plain numbers. */
function exactly(W: ArrayLike<number>, { rank, scale, a, bTransposed }: LinearUpdate): Float64Array {
  const [cols, rows] = [a.length / rank, bTransposed.length / rank];
  return Float64Array.from({ length: rows * cols }, (_, i) => {
    const [row, col] = [Math.floor(i / cols), i % cols];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += bTransposed[k * rows + row]! * a[k * cols + col]!;
    return W[i]! + scale * sum;
  });
}

interface Opened {
  readonly checkpoint: Checkpoint;
  readonly merged: MergedCheckpoint;
  readonly backend: Backend;
  readonly config: ModelConfig;
}

async function withMerged<T>(
  folder: Folder,
  options: Partial<MergeOptions>,
  use: (opened: Opened) => Promise<T>,
  backendName: "reference" | "cpu" = "reference",
): Promise<T> {
  await using backend = await openBackend(backendName, {});
  const checkpoint = await openCheckpoint(folder);
  const config = parseModelConfig(checkpoint.configJson);
  const shapes = new Map(
    checkpoint.tensorNames.map((name) => [`${name.match(/\d+/)?.[0]}.${name.split(".").at(-2)}`, name]),
  );
  const update: MergeOptions["update"] = (layer, linear) => {
    if (!UPDATED.includes(linear)) return null;
    expect(shapes.has(`${layer}.${linear}`)).toBe(true);
    const [rows, cols] = linear === "q_proj" ? [24, 24] : [24, 37];
    return updateFor(rows!, cols!, `${layer}.${linear}`);
  };
  const dtype: MergeOptions["dtype"] = (_, stored) => stored.toLowerCase() as OutputDType;
  const merged = await mergedCheckpoint({ checkpoint, config, backend, update, onto: "original", dtype, ...options });
  try {
    return await use({ checkpoint, merged, backend, config });
  } finally {
    merged.dispose();
    await checkpoint.close();
    expect(backend.allocatedBytes).toBe(0);
  }
}

const ROUND = {
  F32: Math.fround,
  BF16: (x: number) => fromBf16(toBf16(x)),
  F16: (x: number) => toF32("F16", new Uint8Array(toF16Words(Float32Array.of(x)).buffer))[0]!,
};
const UNIT = { F32: 2 ** -22, BF16: 2 ** -8, F16: 2 ** -10 };

const isLinear = (name: string) => /_proj\.weight$/.test(name);
const values = async (checkpoint: Checkpoint, name: string) => {
  const tensor = checkpoint.tensor(name);
  return toF32(tensor.dtype as FloatDType, await tensor.read());
};

for (const backendName of ["reference", "cpu"] as const)
  for (const dtype of ["F32", "BF16", "F16"] as const)
    test(`${backendName}, ${dtype}: W + s·B·A rounded once; all other tensors as they are`, async () => {
      const folder = await writeTiny({ dtype, prefix: "model.language_model.", shards: 2 });
      await withMerged(
        folder,
        {},
        async ({ checkpoint, merged }) => {
          expect(merged.tensorNames).toEqual(checkpoint.tensorNames);
          let [missed, total, error, norm] = [0, 0, 0, 0];
          for (const name of merged.tensorNames) {
            const [before, after] = [await values(checkpoint, name), await values(merged, name)];
            if (!isLinear(name) || !UPDATED.includes(linearName(name))) {
              expect(after, name).toEqual(before);
              if (isLinear(name)) norm += before.reduce((sum, v) => sum + v * v, 0);
              continue;
            }
            const [rows, cols] = merged.tensor(name).shape as [number, number];
            const exact = exactly(before, updateFor(rows, cols, `${layerOf(name)}.${linearName(name)}`));
            for (const [i, value] of exact.entries()) {
              // f32 sums may end on the other side of a tie.
              expect(Math.abs(after[i]! - value)).toBeLessThanOrEqual(UNIT[dtype] * Math.abs(value) + 2 ** -24);
              if (after[i] !== ROUND[dtype](value)) missed++;
              total++;
              error += (after[i]! - value) ** 2;
              norm += value ** 2;
            }
          }
          expect(total).toBe(2 * (24 * 24 + 24 * 37));
          expect(missed).toBeLessThan(dtype === "F32" ? total : total / 1000);
          if (dtype !== "F32") expect(merged.roundingError().relative).toBeCloseTo(Math.sqrt(error / norm), 6);
          else expect(merged.roundingError().relative).toBe(0);
        },
        backendName,
      );
    });

/** The 4-bit values of every linear of a base, by stored name. */
async function trainedOn(
  folder: Folder,
  format: "nf4" | "fp4",
  doubleQuant: boolean,
): Promise<Map<string, Float64Array>> {
  await using backend = await openBackend("reference", {});
  const checkpoint = await openCheckpoint(folder);
  const config = parseModelConfig(checkpoint.configJson);
  const base = await loadBase({ checkpoint, config, backend, identity: IDENTITY, format, doubleQuant });
  const found = new Map<string, Float64Array>();
  for (const [layer, { linears }] of base.layers.entries())
    for (const [name, { weight }] of Object.entries(linears))
      found.set(`${layer}.${name}`, decodeWeight(weight as FourBitWeight));
  base.dispose();
  await checkpoint.close();
  return found;
}

for (const [format, doubleQuant] of [
  ["nf4", true],
  ["nf4", false],
  ["fp4", true],
] as const)
  test(`${format}${doubleQuant ? " double" : ""}: onto what was trained on, from 16 bit and from 4 bit, to the bit of its values`, async () => {
    const dense = await writeTiny({ dtype: "F16" });
    const quantised = await temporaryFolder();
    await withMerged(dense, {}, async ({ checkpoint, config, backend }) => {
      await quantizeCheckpoint({ checkpoint, config, backend, output: quantised, format, doubleQuant });
    });
    const trained = await trainedOn(dense, format, doubleQuant);
    for (const folder of [dense, quantised])
      await withMerged(folder, { onto: { format, doubleQuant }, dtype: () => "f32" }, async ({ merged }) => {
        expect(merged.configJson).not.toHaveProperty("quantization_config");
        expect(merged.tensorNames.filter((name) => /absmax|quant/.test(name))).toEqual([]);
        for (const name of merged.tensorNames.filter(isLinear)) {
          const key = `${layerOf(name)}.${linearName(name)}`;
          const W = trained.get(key)!;
          const [rows, cols] = merged.tensor(name).shape as [number, number];
          const exact = UPDATED.includes(linearName(name)) ? exactly(W, updateFor(rows, cols, key)) : W;
          const got = await values(merged, name);
          for (const [i, value] of exact.entries()) expect(Math.abs(got[i]! - value)).toBeLessThan(1e-7);
          if (!UPDATED.includes(linearName(name))) expect([...got]).toEqual([...W]);
        }
      });
  });

test("a bf16 base of an f32 checkpoint is rounded before the update is added", async () => {
  const options: Partial<MergeOptions> = { onto: { format: "bf16", doubleQuant: false }, update: () => null };
  await withMerged(await writeTiny({ dtype: "F32" }), options, async ({ checkpoint, merged }) => {
    for (const name of merged.tensorNames.filter(isLinear))
      expect([...(await values(merged, name))]).toEqual([...(await values(checkpoint, name))].map(ROUND.BF16));
  });
});

test("a head that is 4-bit becomes dense too, in the dtype that bitsandbytes gives it", async () => {
  const folder = await openFolder("test/fixtures/bnb/nf4-head");
  const variants = JSON.parse(await readFile("test/fixtures/bnb/variants.json", "utf8"));
  await withMerged(folder, {}, async ({ merged }) => {
    expect(merged.tensorNames.filter((name) => /absmax|quant/.test(name))).toEqual([]);
    const head = merged.tensor("lm_head.weight");
    expect(head).toMatchObject({ dtype: "BF16", shape: [19, 24] });
    const whole = await head.read();
    expect(createHash("sha256").update(whole).digest("hex")).toBe(variants["nf4-head"].lm_head);
    // From the middle of a byte of codes on.
    expect(await head.read(130, 50)).toEqual(whole.subarray(130, 180));
  });
});

test("written in shards with companions, it reads back as the same model; dtypes by name", async () => {
  const folder = await writeTiny({ dtype: "F32" });
  await folder.write("tokenizer.json", new TextEncoder().encode("{}"));
  const output = await temporaryFolder();
  const expected = new Map<string, Float32Array>();
  await withMerged(folder, { dtype: () => "bf16" }, async ({ merged }) => {
    const dtype = (name: string): OutputDType => (name.includes("norm") ? "f32" : "bf16");
    const { files, bytes } = await writeCheckpoint({ checkpoint: merged, output, dtype, shardBytes: 6000 });
    expect(files).toContain("tokenizer.json");
    expect(files.filter((name) => /^model-0000\d-of-0000\d\.safetensors$/.test(name)).length).toBeGreaterThan(2);
    for (const name of merged.tensorNames) expected.set(name, await values(merged, name));
    const index = JSON.parse(new TextDecoder().decode(await output.read("model.safetensors.index.json")));
    expect(index.metadata.total_size).toBe(bytes);
  });
  const written = await openCheckpoint(output);
  expect([...written.tensorNames].sort()).toEqual([...expected.keys()].sort());
  for (const [name, want] of expected) {
    expect(written.tensor(name).dtype).toBe(name.includes("norm") ? "F32" : "BF16");
    const round = name.includes("norm") ? Math.fround : ROUND.BF16;
    expect([...(await values(written, name))], name).toEqual([...want].map(round));
  }
  expect(written.configJson).toMatchObject({ dtype: "bfloat16", vocab_size: 19 });
  await written.close();
});

test("quantised again: the codes of W + s·B·A, and the measured error is theirs", async () => {
  const options: TinyOptions = { dtype: "BF16" };
  const output = await temporaryFolder();
  await withMerged(await writeTiny(options), { dtype: () => "f32" }, async ({ merged, config, backend }) => {
    const result = await quantizeCheckpoint({ checkpoint: merged, config, backend, output, measureError: true });
    const stored = await trainedOn(output, "nf4", true);
    let [error, norm] = [0, 0];
    for (const name of merged.tensorNames.filter(isLinear)) {
      const exact = await values(merged, name);
      const got = stored.get(`${layerOf(name)}.${linearName(name)}`)!;
      for (const [i, value] of exact.entries()) {
        error += (got[i]! - value) ** 2;
        norm += value ** 2;
      }
    }
    expect(result.error!.relative).toBeCloseTo(Math.sqrt(error / norm), 6);
    expect(result.error!.norm).toBeCloseTo(Math.sqrt(error), 6);
    expect(result.error!.relative).toBeGreaterThan(0.05);
    expect(merged.updateNorm()).toBeGreaterThan(0);
  });
});
