// Against real bitsandbytes: fixtures by tools/bnb-fixtures.py, versions in test/fixtures/bnb/linears.json.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import type { Backend } from "../../src/backends/backend.ts";
import { openBackend } from "../../src/backends/open.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { toF32 } from "../../src/formats/float-convert.ts";
import { openFile, openFolder } from "../../src/formats/node-files.ts";
import { bytesOf, openSafetensors, type SafetensorsFile } from "../../src/formats/safetensors.ts";
import { linearPath } from "../../src/model/families/index.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { CODE_BOOKS, dynamicMap } from "../../src/ops/code-books.ts";
import type { BlockScales, FourBitWeight } from "../../src/ops/frozen-weight.ts";
import { findQuantState, readStoredFourBit, type TensorLookup } from "../../src/quant/bitsandbytes.ts";
import { type LoadBaseOptions, loadBase } from "../../src/quant/load-base.ts";
import { type HostBuffer, hostTensor, readMatrix } from "../../src/tensor/host.ts";
import { matrix, spanBytes, type Tensor } from "../../src/tensor/tensor.ts";
import { firstDifference } from "./tiny-model.ts";

interface Case {
  readonly name: string;
  readonly source: string;
  readonly format: "nf4" | "fp4";
  readonly double: boolean;
  readonly sha256: { readonly f32: string; readonly bf16: string };
}
const { cases } = JSON.parse(readFileSync("test/fixtures/bnb/linears.json", "utf8")) as { cases: Case[] };

/** Per saved model, the SHA-256 of every module's weight as bitsandbytes dequantises it. */
const variants = JSON.parse(readFileSync("test/fixtures/bnb/variants.json", "utf8")) as Record<
  string,
  Record<string, string>
>;

const BACKENDS = ["reference", "cpu"] as const;

/** What the running test allocated. */
const owned: { dispose(): void }[] = [];
afterEach(() => {
  for (const thing of owned.splice(0)) thing.dispose();
});

const file = await openSafetensors(await openFile("test/fixtures/bnb/linears.safetensors"));

/** The file's tensors below `prefix` as a checkpoint. */
function below(prefix: string, { has, tensor }: SafetensorsFile): TensorLookup {
  const name = (short: string) => `${prefix}.${short}`;
  return { name: prefix, find: (n) => (has(name(n)) ? name(n) : null), tensor: (n) => tensor(name(n)) };
}

/** A tensor of the backend holding these bytes. */
function upload(backend: Backend, dtype: Tensor["dtype"], rows: number, cols: number, bytes: Uint8Array): Tensor {
  const buffer = backend.alloc(bytes.length, "test");
  owned.push(buffer);
  backend.write(buffer, 0, bytes);
  return matrix(buffer, dtype, rows, cols);
}

/** The values of a dense tensor, wherever it lies. */
async function numbers(backend: Backend, tensor: Tensor): Promise<Float64Array> {
  const bytes = await backend.read(tensor.buffer, tensor.offset, spanBytes(tensor));
  const host = hostTensor(tensor.dtype, tensor.rows, tensor.cols);
  new Uint8Array((host.buffer as HostBuffer).data).set(bytes);
  return readMatrix(host);
}

const bytesOfTensor = (backend: Backend, t: Tensor) => backend.read(t.buffer, 0, t.buffer.bytes);
const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

async function loadCase(backend: Backend, { name, source }: Case): Promise<FourBitWeight> {
  const [rows, cols] = file.tensor(source).shape as [number, number];
  const lookup = below(name, file);
  const stored = await readStoredFourBit(lookup, findQuantState(lookup, "weight")!, rows, cols);
  const codes = upload(backend, "u8", 1, stored.codes.bytes, await stored.codes.read());
  if (stored.scales.kind === "plain") {
    const { absmax } = stored.scales;
    const scales = { kind: "plain" as const, absmax: upload(backend, "f32", 1, absmax.bytes / 4, await absmax.read()) };
    return { format: stored.format, rows, cols, codes, scales };
  }
  const { absmax2, map, offset } = stored.scales;
  const scales = {
    kind: "double" as const,
    codes: upload(backend, "u8", 1, stored.scales.codes.bytes, await stored.scales.codes.read()),
    absmax2: upload(backend, "f32", 1, absmax2.bytes / 4, await absmax2.read()),
    map: upload(backend, "f32", 1, 256, new Uint8Array(map.buffer)),
    offset,
  };
  return { format: stored.format, rows, cols, codes, scales };
}

/** FP4's code 8 is −0 here; in bitsandbytes it is −0 or 0, depending on the kernel it takes. The fixtures have 0. */
function withoutMinusZero(bytes: Uint8Array, dtype: "f32" | "bf16"): Uint8Array {
  if (dtype === "f32") return bytesOf(new Uint32Array(bytes.buffer).map((bits) => (bits === 0x80000000 ? 0 : bits)));
  return bytesOf(new Uint16Array(bytes.buffer).map((bits) => (bits === 0x8000 ? 0 : bits)));
}

/**
 * Positions at which two packed code arrays differ, as [position, ours, theirs]. FP4's codes 0 and 8 both mean zero:
 * the CUDA kernels, and we, give a small negative value 8; the CPU library of bitsandbytes gives 8 to small positive ones.
 */
function differingCodes(
  format: "nf4" | "fp4",
  ours: ArrayLike<number>,
  theirs: ArrayLike<number>,
  values: number,
): [number, number, number][] {
  const code = (bytes: ArrayLike<number>, i: number) => {
    const found = i % 2 === 0 ? bytes[i >> 1]! >> 4 : bytes[i >> 1]! & 15;
    return format === "fp4" && found === 8 ? 0 : found;
  };
  const all = Array.from({ length: values }, (_, i): [number, number, number] => [i, code(ours, i), code(theirs, i)]);
  return all.filter(([, a, b]) => a !== b);
}

/**
 * Codes that differ, all of them ties: bitsandbytes has FP4's thresholds as short decimals in its CUDA kernels, as we do,
 * and as midpoints in its CPU code; they are up to 3.4e-7 apart. None in NF4.
 */
const CODE_TIES: Readonly<Record<string, number>> = { "whole.source.fp4": 1, "large.source.fp4": 1 };

/** Scale codes that differ, all of them ties, of 262. */
const TIES: Readonly<Record<string, number>> = { "large.nf4-double": 3, "large.fp4-double": 3 };

/**
 * The CPU library of bitsandbytes finds a scale's code through a table over x in steps of 2⁻¹⁵, so that a value within one
 * step of the midpoint of two entries may get either. (Its CUDA kernels, and we, compare exactly.)
 */
function scaleTies(absmax: Float64Array, map: Float64Array, offset: number, absmax2: Float64Array) {
  return (i: number, ours: number, theirs: number): boolean => {
    const x = (absmax[i]! - offset) / absmax2[Math.floor(i / 256)]!;
    const middle = (map[ours]! + map[theirs]!) / 2;
    return Math.abs(ours - theirs) === 1 && Math.abs(x - middle) < 2 ** -15;
  };
}

async function load(backend: Backend, name: string, options: Partial<LoadBaseOptions>): Promise<FrozenModel> {
  const checkpoint = await openCheckpoint(await openFolder(`test/fixtures/bnb/${name}`));
  try {
    const config = parseModelConfig(checkpoint.configJson);
    const identity = { name, revision: null, sha256: "0", templateSha256: null };
    const base = await loadBase({ checkpoint, config, backend, identity, ...options });
    owned.push(base);
    return base;
  } finally {
    await checkpoint.close();
  }
}

/** Number of scale codes that differ, by one step each; everything else is equal. */
async function compareScales(backend: Backend, a: BlockScales, b: BlockScales): Promise<number> {
  if (a.kind === "plain" && b.kind === "plain") {
    expect(firstDifference(await numbers(backend, a.absmax), await numbers(backend, b.absmax))).toBe(-1);
    return 0;
  }
  if (a.kind !== "double" || b.kind !== "double") throw new Error("one is plain, the other double");
  expect(firstDifference(await numbers(backend, a.absmax2), await numbers(backend, b.absmax2))).toBe(-1);
  expect(firstDifference(await numbers(backend, a.map), await numbers(backend, b.map))).toBe(-1);
  expect(a.offset).toBe(b.offset);
  const theirs = await numbers(backend, a.codes);
  const steps = [...(await numbers(backend, b.codes))]
    .map((code, i) => Math.abs(code - theirs[i]!))
    .filter((step) => step !== 0);
  expect(steps.every((step) => step === 1)).toBe(true);
  return steps.length;
}

describe.each(BACKENDS)("%s", async (backendName) => {
  const backend = await openBackend(backendName);
  afterAll(() => backend[Symbol.asyncDispose]());

  test.each(cases)("$name: dequantises to the bits of bitsandbytes, in f32 and bf16", async (fixture) => {
    const weight = await loadCase(backend, fixture);
    expect(weight.format).toBe(fixture.format);
    expect(weight.scales.kind).toBe(fixture.double ? "double" : "plain");
    for (const dtype of ["f32", "bf16"] as const) {
      const bytes = weight.rows * weight.cols * (dtype === "f32" ? 4 : 2);
      const y = upload(backend, dtype, weight.rows, weight.cols, new Uint8Array(bytes));
      backend.run("dequantize", { weight, y });
      const bytesRead = await bytesOfTensor(backend, y);
      expect(sha(fixture.format === "fp4" ? withoutMinusZero(bytesRead, dtype) : bytesRead)).toBe(
        fixture.sha256[dtype],
      );
    }
  });

  test.each(cases)("$name: quantises to the codes and scales of bitsandbytes", async (fixture) => {
    const theirs = await loadCase(backend, fixture);
    const { rows, cols, format } = theirs;
    const blocks = Math.ceil((rows * cols) / 64);
    const stored = file.tensor(fixture.source);
    const values = toF32(stored.dtype as "F32" | "F16" | "BF16", await stored.read());
    const w = upload(backend, "f32", rows, cols, new Uint8Array(values.buffer));
    const codes = upload(backend, "u8", 1, Math.ceil((rows * cols) / 2), new Uint8Array(Math.ceil((rows * cols) / 2)));
    const absmax = upload(backend, "f32", 1, blocks, new Uint8Array(blocks * 4));
    backend.run("quantize4bit", { w, codes, absmax, format });
    const different = differingCodes(
      format,
      await numbers(backend, codes),
      await numbers(backend, theirs.codes),
      rows * cols,
    );
    const levels = CODE_BOOKS[format];
    const scales = await numbers(backend, absmax);
    const isTie = ([i, a, b]: [number, number, number]) =>
      Math.abs(Math.abs(values[i]! / scales[i >> 6]!) - Math.abs(levels[a]! + levels[b]!) / 2) < 4e-7;
    expect(different.filter((d) => !isTie(d))).toEqual([]);
    expect(different.length).toBe(CODE_TIES[`${fixture.source}.${format}`] ?? 0);
    if (theirs.scales.kind === "plain") {
      expect(firstDifference(await numbers(backend, absmax), await numbers(backend, theirs.scales.absmax))).toBe(-1);
      return;
    }
    const map = upload(backend, "f32", 1, 256, new Uint8Array(dynamicMap().buffer));
    expect(firstDifference(await numbers(backend, map), await numbers(backend, theirs.scales.map))).toBe(-1);
    const scaleCodes = upload(backend, "u8", 1, blocks, new Uint8Array(blocks));
    const absmax2 = upload(backend, "f32", 1, Math.ceil(blocks / 256), new Uint8Array(4 * Math.ceil(blocks / 256)));
    const offset = upload(backend, "f32", 1, 1, new Uint8Array(4));
    backend.run("quantizeScales", { absmax, map, codes: scaleCodes, absmax2, offset });
    expect((await numbers(backend, offset))[0]).toBe(theirs.scales.offset);
    expect(firstDifference(await numbers(backend, absmax2), await numbers(backend, theirs.scales.absmax2))).toBe(-1);
    const ties = scaleTies(
      await numbers(backend, absmax),
      await numbers(backend, map),
      (await numbers(backend, offset))[0]!,
      await numbers(backend, absmax2),
    );
    const other = await numbers(backend, theirs.scales.codes);
    const unequal = [...(await numbers(backend, scaleCodes)).entries()].filter(([i, code]) => code !== other[i]);
    expect(unequal.filter(([i, code]) => !ties(i, code, other[i]!))).toEqual([]);
    expect(unequal.length).toBe(TIES[fixture.name] ?? 0);
  });

  test.each([
    ["nf4-double", "nf4", true, { differentCodes: 0, differentScales: 2 }],
    ["fp4", "fp4", false, { differentCodes: 2, differentScales: 0 }],
  ] as const)(
    "a model that transformers saved as %s equals ours quantised from bf16",
    async (name, format, doubleQuant, ties) => {
      const theirs = await load(backend, name, {});
      const ours = await load(backend, "plain", { format, doubleQuant });
      expect(theirs.identity).toMatchObject({ format, doubleQuant });
      expect(theirs.bytes).toBe(ours.bytes);
      expect(firstDifference(await numbers(backend, theirs.embedding), await numbers(backend, ours.embedding))).toBe(
        -1,
      );
      expect(firstDifference(await numbers(backend, theirs.head), await numbers(backend, ours.head))).toBe(-1);
      let differentCodes = 0;
      let differentScales = 0;
      for (const [i, layer] of theirs.layers.entries())
        for (const [linear, { weight }] of Object.entries(layer.linears)) {
          const a = weight as FourBitWeight;
          const b = ours.layers[i]!.linears[linear]!.weight as FourBitWeight;
          const values = a.rows * a.cols;
          differentCodes += differingCodes(
            format,
            await numbers(backend, b.codes),
            await numbers(backend, a.codes),
            values,
          ).length;
          differentScales += await compareScales(backend, a.scales, b.scales);
        }
      // Ties, as explained above: of 8,784 codes and 140 scales.
      expect({ differentCodes, differentScales }).toEqual(ties);
    },
  );

  test.each(Object.keys(variants))(
    "%s: every linear and the head dequantise to the bits of bitsandbytes",
    async (name) => {
      const hashes = new Map(Object.entries(variants[name]!));
      const base = await load(backend, name, {});
      for (const [i, { linears }] of base.layers.entries())
        for (const [linear, { weight }] of Object.entries(linears)) {
          const { rows, cols } = weight;
          const y = upload(backend, "f32", rows, cols, new Uint8Array(rows * cols * 4));
          backend.run("dequantize", { weight, y });
          const bytes = await bytesOfTensor(backend, y);
          const path = linearPath("llama", i, linear);
          expect(sha(weight.format === "fp4" ? withoutMinusZero(bytes, "f32") : bytes), path).toBe(hashes.get(path));
          hashes.delete(path);
        }
      const { buffer, offset, rows, cols } = base.head;
      expect(sha(await backend.read(buffer, offset, rows * cols * 2)), "lm_head").toBe(hashes.get("lm_head"));
      hashes.delete("lm_head");
      expect([...hashes]).toEqual([]);
    },
  );

  test("another format than the stored one is refused", async () => {
    for (const format of ["fp4", "bf16", "f32"] as const)
      await expect(load(backend, "nf4-double", { format })).rejects.toMatchObject({ code: "CONFIG_INVALID" });
    expect(backend.allocatedBytes).toBe(0);
  });
});
