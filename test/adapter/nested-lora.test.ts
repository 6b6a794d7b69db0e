// Against adapters that real PEFT saved: fixtures by tools/peft-fixtures.py.

import { describe, expect, test } from "vitest";
import {
  adaptedLinears,
  largestRank,
  type NestedModule,
  nestedModules,
  Spectrum,
} from "../../src/adapter/nested-lora.ts";
import { openFile, openFolder } from "../../src/formats/node-files.ts";
import { type OpenPeftAdapter, openPeft } from "../../src/formats/peft.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { linearPath } from "../../src/model/families/index.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";

const FOLDER = "test/fixtures/peft";
const config = parseModelConfig(
  JSON.parse(new TextDecoder().decode(await (await openFolder("test/fixtures/bnb/plain")).read("config.json"))),
);

const open = async (name: string): Promise<OpenPeftAdapter> => openPeft(await openFolder(`${FOLDER}/${name}`));

/** What PEFT adds to each linear, f64 [out, in] by module path. */
async function deltasOf(name: string): Promise<Map<string, Float64Array>> {
  const file = await openSafetensors(await openFile(`${FOLDER}/${name}/delta.safetensors`));
  const deltas = new Map<string, Float64Array>();
  for (const path of file.names) deltas.set(path, new Float64Array((await file.tensor(path).read()).slice().buffer));
  await file.close();
  return deltas;
}

/** Bᵀ[:rank]ᵀ·A[:rank] */
function product({ a, bTransposed, rank: r }: NestedModule, rank = r): Float64Array {
  const [K, M] = [a.length / r, bTransposed.length / r];
  const out = new Float64Array(M * K);
  for (let i = 0; i < rank; i++)
    for (let m = 0; m < M; m++) for (let k = 0; k < K; k++) out[m * K + k]! += bTransposed[i * M + m]! * a[i * K + k]!;
  return out;
}

const norm = (values: ArrayLike<number>): number => Math.sqrt(Array.from(values).reduce((sum, v) => sum + v * v, 0));
const distance = (a: Float64Array, b: Float64Array): number => norm(a.map((value, i) => value - b[i]!));

describe.each([
  ["plain", "plain", ["q_proj", "down_proj"], 4],
  ["patterns", "patterns", ["q_proj", "v_proj", "up_proj"], 5],
  ["named", "patterns", ["q_proj", "v_proj", "up_proj"], 5],
  ["rslora", "rslora", ["o_proj"], 4],
])("%s", (name, deltaName, linears, rank) => {
  test("all rows together are what PEFT adds, and the first are the best of their rank", async () => {
    const peft = await open(name);
    expect(adaptedLinears(peft, config)).toEqual(linears);
    expect(largestRank(peft)).toBe(rank);
    const deltas = await deltasOf(deltaName);
    const spectrum = new Spectrum();
    const squares = new Float64Array(rank + 1);
    for await (const module of nestedModules(peft, config)) {
      spectrum.add(module);
      const path = linearPath(config.family, module.layer, module.linear);
      const delta = deltas.get(path)!;
      expect(deltas.delete(path)).toBe(true);
      expect(distance(product(module), delta) / norm(delta)).toBeLessThan(3e-7);
      // Eckart & Young: what rank b misses is the tail of the singular values.
      for (let b = 0; b <= rank; b++) {
        const missed = distance(product(module, Math.min(b, module.rank)), delta);
        expect(missed).toBeCloseTo(norm(module.sigma.slice(b)), 5);
        squares[b]! += missed ** 2;
      }
    }
    expect(deltas.size).toBe(0);
    for (let b = 0; b <= rank; b++)
      expect(spectrum.relativeError(b)).toBeCloseTo(Math.sqrt(squares[b]! / squares[0]!), 5);
    expect(spectrum.relativeError(0)).toBe(1);
    expect(spectrum.relativeError(rank)).toBe(0);
    await peft.close();
  });
});

test("a module that the model does not have, or of another shape, is refused by name", async () => {
  const peft = await open("rslora");
  const shallow = { ...config, layers: 1 };
  expect(() => adaptedLinears(peft, shallow)).toThrow(/model\.layers\.1\.self_attn\.o_proj is no linear/);
  const [module] = peft.modules;
  const wide = { ...peft, modules: [{ ...module!, in: 7 }] };
  expect(() => adaptedLinears(wide, config)).toThrow(/is 24×7, expected 24×24/);
  const head = { ...peft, modules: [{ ...module!, path: "lm_head" }] };
  expect(() => adaptedLinears(head, config)).toThrow(/lm_head is no linear/);
  await peft.close();
});
