import { describe, expect, test } from "vitest";
import { checkFits, MANIFEST, readAdapter, type StoredAdapter, writeAdapter } from "../../src/adapter/file.ts";
import type { AdapterManifest } from "../../src/adapter/manifest.ts";
import { sliceConfig, sliceWeights } from "../../src/adapter/slice.ts";
import { PEFT_CONFIG, PEFT_WEIGHTS } from "../../src/formats/peft.ts";
import type { BaseIdentity } from "../../src/model/frozen-model.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { adapterConfig, randomWeights, TINY, TINY_JSON } from "../model/tiny-model.ts";
import { MemoryFolder } from "../train/memory-folder.ts";

const base: BaseIdentity = {
  name: "org/tiny",
  revision: "main",
  family: "llama",
  sha256: "ab".repeat(32),
  format: "nf4",
  blockSize: 64,
  doubleQuant: true,
  templateSha256: null,
};

function stored(overrides = {}): StoredAdapter {
  const adapter = adapterConfig(overrides);
  const manifest: AdapterManifest = {
    format: "qdylora-adapter/1",
    adapter,
    base,
    scores: [
      { rank: 0, loss: 3 },
      { rank: 8, loss: 1, metric: 0.5 },
    ],
    metricName: "exact match",
    provenance: {
      qdylora: "0",
      node: "v20",
      device: "d",
      instructionSet: "i",
      seed: 1,
      steps: 2,
      dataSha256: "d",
      train: null,
    },
  };
  return { weights: { rank: adapter.rankMax, tensors: randomWeights(adapter) }, manifest };
}

async function written({ weights, manifest }: StoredAdapter = stored()): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  await writeAdapter(folder, weights, manifest);
  return folder;
}

describe("adapter folder", () => {
  test("reads back to the bit, whatever the targets", async () => {
    for (const adapter of [
      stored(),
      stored({ targets: ["q_proj", "down_proj"], distribution: { kind: "mixture", share: 0.25 } }),
    ]) {
      const { weights, manifest } = await readAdapter(await written(adapter));
      expect(manifest).toEqual(adapter.manifest);
      expect(new Map([...weights.tensors].sort())).toEqual(new Map([...adapter.weights.tensors].sort()));
      expect(() => checkFits({ weights, manifest }, TINY, base, false)).not.toThrow();
    }
  });

  test.each(["alpha/b", "alpha/R", "alpha/sqrt(b)", "one"] as const)(
    "PEFT computes s(b) at every slice under %s",
    async (scaleRule) => {
      const { weights, manifest } = stored({ scaleRule, alpha: 6 });
      for (const rank of [1, 3, 8]) {
        const adapter = sliceConfig(manifest.adapter, rank);
        const folder = await written({ weights: sliceWeights(weights, rank), manifest: { ...manifest, adapter } });
        const peft = JSON.parse(folder.text(PEFT_CONFIG)) as { r: number; lora_alpha: number; use_rslora: boolean };
        const scaling = peft.lora_alpha / (peft.use_rslora ? Math.sqrt(peft.r) : peft.r);
        expect(peft.r).toBe(rank);
        expect(scaling).toBeCloseTo(
          { "alpha/b": 6 / rank, "alpha/R": 6 / 8, "alpha/sqrt(b)": 6 / Math.sqrt(rank), one: 1 }[scaleRule],
          12,
        );
      }
    },
  );

  test("the manifest is written last, so that a folder cut short is not an adapter", async () => {
    const folder = new MemoryFolder();
    folder.writesLeft = 2;
    const { weights, manifest } = stored();
    await expect(writeAdapter(folder, weights, manifest)).rejects.toMatchObject({ code: "WRITE_FAILED" });
    expect([...folder.files.keys()].sort()).toEqual([PEFT_CONFIG, PEFT_WEIGHTS].sort());
    await expect(readAdapter(folder)).rejects.toMatchObject({ code: "ADAPTER_INVALID" });
  });

  test.each([
    ["no JSON", (text: string) => text.slice(0, 40)],
    ["another format", (text: string) => text.replace("qdylora-adapter/1", "qdylora-adapter/9")],
    ["a rank beyond R", (text: string) => text.replace('"ranks": [', '"ranks": [\n 99,')],
    ["an unknown target", (text: string) => text.replace('"q_proj"', '"lm_head"')],
    ["another R than the weights", (text: string) => text.replace('"rankMax": 8', '"rankMax": 16')],
  ])("a manifest with %s is refused", async (_name, damage) => {
    const folder = await written();
    folder.files.set(MANIFEST, new TextEncoder().encode(damage(folder.text(MANIFEST))));
    await expect(readAdapter(folder)).rejects.toMatchObject({ code: "ADAPTER_INVALID" });
  });
});

describe("fitting a base", () => {
  test.each(["sha256", "format", "doubleQuant", "blockSize", "templateSha256"] as const)(
    "another %s is refused unless forced",
    (key) => {
      const other = {
        ...base,
        [key]: { sha256: "cd", format: "bf16", doubleQuant: false, blockSize: 128, templateSha256: "t" }[key],
      } as BaseIdentity;
      expect(() => checkFits(stored(), TINY, other, false)).toThrowError(
        expect.objectContaining({
          code: "ADAPTER_BASE_MISMATCH",
          details: expect.objectContaining({ differing: [key] }),
        }),
      );
      expect(() => checkFits(stored(), TINY, other, true)).not.toThrow();
    },
  );

  test("another name of the same weights fits; another shape never does", () => {
    expect(() => checkFits(stored(), TINY, { ...base, name: "renamed", revision: null }, false)).not.toThrow();
    for (const model of [
      parseModelConfig({ ...TINY_JSON, hidden_size: 64 }),
      { ...TINY, layers: 3 },
      { ...TINY, layers: 1 },
    ])
      expect(() => checkFits(stored(), model, base, true)).toThrowError(
        expect.objectContaining({ code: "ADAPTER_INVALID" }),
      );
  });
});
