import fc from "fast-check";
import { expect, test } from "vitest";
import { scaleAt } from "../../src/adapter/config.ts";
import type { NodeFolder } from "../../src/formats/node-files.ts";
import {
  openPeft,
  PEFT_CONFIG,
  PEFT_WEIGHTS,
  type PeftAdapter,
  type PeftModule,
  peftScale,
  writePeft,
} from "../../src/formats/peft.ts";
import { bytesOf, encodeSafetensors, openSafetensors, type TensorToWrite } from "../../src/formats/safetensors.ts";
import { fromBf16, toBf16 } from "../../src/tensor/dtype.ts";
import { temporaryFolder, tinyValues } from "../quant/tiny-model.ts";

const RANK = 3;
const module = (path: string, inFeatures: number, out: number): PeftModule => ({
  path,
  in: inFeatures,
  out,
  a: async () => tinyValues(`${path}.A`, RANK * inFeatures),
  bTransposed: async () => tinyValues(`${path}.B`, RANK * out),
});
const ADAPTER: PeftAdapter = {
  rank: RANK,
  loraAlpha: 16,
  useRslora: false,
  baseModel: "org/base",
  revision: null,
  modules: [module("model.layers.0.self_attn.q_proj", 5, 7), module("model.layers.10.mlp.down_proj", 4, 2)],
};

for (const dtype of ["f32", "bf16"] as const)
  test(`${dtype}: what is written is read back`, async () => {
    const folder = await temporaryFolder();
    await writePeft(folder, ADAPTER, [{ part: "", dtype }]);
    const read = await openPeft(folder);
    expect(read).toMatchObject({ rank: 3, loraAlpha: 16, useRslora: false, baseModel: "org/base", revision: null });
    expect(read.modules.map(({ path }) => path)).toEqual(ADAPTER.modules.map(({ path }) => path));
    const stored = (v: number) => (dtype === "f32" ? v : fromBf16(toBf16(v)));
    for (const [i, { a, bTransposed, in: inFeatures, out }] of read.modules.entries()) {
      const want = ADAPTER.modules[i]!;
      expect({ inFeatures, out }).toEqual({ inFeatures: want.in, out: want.out });
      expect([...(await a())]).toEqual([...(await want.a())].map(stored));
      expect([...(await bTransposed())]).toEqual([...(await want.bTransposed())].map(stored));
    }
    await read.close();
  });

test("a dtype can be chosen by part of a name: the last rule that fits wins, and f16 refuses what it cannot hold", async () => {
  const folder = await temporaryFolder();
  await writePeft(folder, ADAPTER, [
    { part: "lora_A", dtype: "f16" },
    { part: "layers.10.", dtype: "bf16" },
  ]);
  const file = await openSafetensors(await folder.open(PEFT_WEIGHTS));
  const dtypes = file.names.map((name) => [
    name.replace(/^.*?(layers\.\d+).*(lora_.).*$/, "$1 $2"),
    file.tensor(name).dtype,
  ]);
  expect(Object.fromEntries(dtypes)).toEqual({
    "layers.0 lora_A": "F16",
    "layers.0 lora_B": "F32",
    "layers.10 lora_A": "BF16",
    "layers.10 lora_B": "BF16",
  });
  await file.close();
  const large = { ...ADAPTER, modules: [{ ...ADAPTER.modules[0]!, a: async () => new Float32Array(15).fill(7e4, 4) }] };
  await expect(writePeft(folder, large, [{ part: "", dtype: "f16" }])).rejects.toMatchObject({
    code: "TENSOR_NONFINITE",
    message: expect.stringContaining("70000 at element 4"),
  });
});

test("the config has PEFT's fields and short target names; the file has PEFT's names and shapes", async () => {
  const folder = await temporaryFolder();
  await writePeft(folder, ADAPTER);
  expect(JSON.parse(new TextDecoder().decode(await folder.read(PEFT_CONFIG)))).toMatchObject({
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    r: 3,
    lora_alpha: 16,
    target_modules: ["down_proj", "q_proj"],
    use_rslora: false,
    bias: "none",
    inference_mode: true,
  });
  const header = new TextDecoder().decode((await folder.read(PEFT_WEIGHTS)).subarray(8, 700));
  expect(header).toContain(
    '"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":{"dtype":"F32","shape":[3,5]',
  );
  expect(header).toContain(
    '"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight":{"dtype":"F32","shape":[7,3]',
  );
});

test("PEFT's scale at every rank is s(b), whatever the rule", () => {
  const rules = ["alpha/b", "alpha/R", "alpha/sqrt(b)", "one"] as const;
  const arbitrary = fc.record({
    scaleRule: fc.constantFrom(...rules),
    alpha: fc.integer({ min: 1, max: 64 }),
    rank: fc.integer({ min: 1, max: 64 }),
  });
  fc.assert(
    fc.property(arbitrary, ({ scaleRule, alpha, rank }) => {
      const { loraAlpha, useRslora, rank: r } = peftScale(scaleRule, { alpha, rankMax: 64, rank });
      const scale = loraAlpha / (useRslora ? Math.sqrt(r) : r);
      expect(scale).toBeCloseTo(scaleAt({ scaleRule, alpha, rankMax: 64 }, rank), 12);
    }),
    { seed: 3 },
  );
});

const A = "base_model.model.x.lora_A.weight";
const B = "base_model.model.x.lora_B.weight";
const zeros = (name: string, ...shape: number[]): TensorToWrite => ({
  name,
  dtype: "F32",
  shape,
  content: new Uint8Array(shape.reduce((p, n) => p * n, 4)),
});
const BROKEN: [string, object, TensorToWrite[], RegExp][] = [
  ["another method", { peft_type: "IA3" }, [zeros(A, 3, 2), zeros(B, 2, 3)], /peft_type/],
  ["DoRA", { use_dora: true }, [zeros(A, 3, 2), zeros(B, 2, 3)], /use_dora/],
  ["a variant", { use_qalora: true }, [zeros(A, 3, 2), zeros(B, 2, 3)], /use_qalora: .*variant/],
  ["a changed base", { init_lora_weights: "pissa" }, [zeros(A, 3, 2), zeros(B, 2, 3)], /init_lora_weights/],
  [
    "another rank than the pattern's",
    { rank_pattern: { x: 4 } },
    [zeros(A, 3, 2), zeros(B, 2, 3)],
    /expected \[4, in\]/,
  ],
  [
    "a pattern that is none",
    { alpha_pattern: { "(": 4 } },
    [zeros(A, 3, 2), zeros(B, 2, 3)],
    /alpha_pattern: "\(" is no/,
  ],
  [
    "two adapters in one file",
    {},
    [zeros(A, 3, 2), zeros(A.replace(".weight", ".other.weight"), 3, 2), zeros(B, 2, 3)],
    /is there twice/,
  ],
  ["a rank of zero", { r: 0 }, [zeros(A, 3, 2), zeros(B, 2, 3)], /r: /],
  ["no tensor", {}, [], /holds no LoRA weight/],
  ["half a pair", {}, [zeros(A, 3, 2)], /x: has no lora_B, expected both/],
  ["another rank in A", {}, [zeros(A, 4, 2), zeros(B, 2, 4)], /lora_A\.weight: is \[4, 2\], expected \[3, in\]/],
  ["another rank in B", {}, [zeros(A, 3, 2), zeros(B, 3, 2)], /lora_B\.weight: is \[3, 2\], expected \[out, 3\]/],
  ["a foreign tensor", {}, [zeros("lm_head.weight", 1)], /lm_head\.weight: is not the LoRA weight of a linear/],
];

async function writeRaw(folder: NodeFolder, config: object, tensors: TensorToWrite[]): Promise<void> {
  const json = JSON.stringify({ peft_type: "LORA", r: RANK, lora_alpha: 8, ...config });
  await folder.write(PEFT_CONFIG, new TextEncoder().encode(json));
  await folder.write(PEFT_WEIGHTS, encodeSafetensors(tensors));
}

for (const [name, config, tensors, message] of BROKEN)
  test(`${name} gives ADAPTER_INVALID`, async () => {
    const folder = await temporaryFolder();
    await writeRaw(folder, config, tensors);
    const opened = openPeft(folder);
    await expect(opened).rejects.toMatchObject({ code: "ADAPTER_INVALID" });
    await expect(opened).rejects.toThrow(message);
  });

test("NaN gives TENSOR_NONFINITE when it is read", async () => {
  const folder = await temporaryFolder();
  const content = bytesOf(Float32Array.of(0, 0, 0, Number.NaN, 0, 0));
  await writeRaw(folder, {}, [{ ...zeros(A, 3, 2), content }, zeros(B, 2, 3)]);
  const read = await openPeft(folder);
  await expect(read.modules[0]!.a()).rejects.toMatchObject({
    code: "TENSOR_NONFINITE",
    details: { tensor: A, index: 3 },
  });
  expect((await read.modules[0]!.bTransposed()).length).toBe(6);
  await read.close();
});
