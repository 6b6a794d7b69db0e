// The stored results of the independent implementation (tools/parity-fixtures.py), as typed data.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { AdapterConfig, ScaleRule } from "../../src/adapter/config.ts";
import { openFile } from "../../src/formats/node-files.ts";
import { openSafetensors, type SafetensorsFile } from "../../src/formats/safetensors.ts";
import { type LinearName, linearNames, type ModelConfig } from "../../src/model/config.ts";
import { linearPath } from "../../src/model/families/index.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import type { BaseFormat } from "../../src/ops/frozen-weight.ts";
import type { OptimizerConfig } from "../../src/train/config.ts";

const FOLDER = fileURLToPath(new URL("../fixtures/parity", import.meta.url));

export const CASE_NAMES = ["nf4", "nf4-double", "fp4", "bf16", "f32"] as const;
/** A case or two for each family, named by its model. */
export const FAMILY_CASES = [
  ...["llama-yarn", "falcon-40b", "falcon-7b", "falcon-11b", "falcon-rw", "mistral", "qwen2", "qwen3"],
  ...["gemma2", "gemma3", "phi3", "gpt-neox", "gpt2"],
] as const;
export type CaseName = (typeof CASE_NAMES)[number] | (typeof FAMILY_CASES)[number];
export type CurveKind = "nested" | "dense" | "frozen";

export interface FixtureSequence {
  readonly tokens: readonly number[];
  readonly supervised: readonly number[];
  /** What each position predicts, as the fixture script sees it: −1 for nothing. */
  readonly targets: readonly number[];
}

export interface FixtureStep {
  readonly rank: number;
  /** Indices into `pool`. */
  readonly microBatches: readonly (readonly number[])[];
}

interface CaseRecord {
  readonly versions: Readonly<Record<string, string>>;
  readonly model: string;
  readonly baseFormat: BaseFormat;
  readonly doubleQuant: boolean;
  readonly scaleRule: ScaleRule;
  readonly alpha: number;
  readonly rankMax: number;
  /** By Hugging Face tensor name: SHA-256 of the f32 values that the linear really multiplies by. */
  readonly dequantizedSha256: Readonly<Record<string, string>>;
  readonly sequences: readonly FixtureSequence[];
  /** `scale` is s(b), as peft computed it. */
  readonly ranks: readonly { readonly rank: number; readonly scale: number; readonly loss: number }[];
  readonly optimizer: Omit<OptimizerConfig, "dense">;
  /** The seed whose rank draws (uniform over 1..R) the curves follow. */
  readonly curveSeed: number;
  readonly pool: readonly FixtureSequence[];
  readonly steps: readonly FixtureStep[];
  readonly curves: Readonly<
    Partial<Record<CurveKind, readonly { readonly rank: number; readonly loss: number; readonly gradNorm: number }[]>>
  >;
}

export interface ParityCase extends CaseRecord {
  readonly name: CaseName;
  /** A folder in the Hugging Face layout. */
  readonly modelPath: string;
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, Float32Array>;
}

export async function readCase(name: CaseName): Promise<ParityCase> {
  const record = JSON.parse(readFileSync(`${FOLDER}/${name}.json`, "utf8")) as CaseRecord;
  const file = await openSafetensors(await openFile(`${FOLDER}/${name}.safetensors`));
  try {
    const tensors = new Map<string, Float32Array>();
    for (const key of file.names) tensors.set(key, await readFloats(file, key));
    const modelPath = `${FOLDER}/models/${record.model}`;
    const config = parseModelConfig(JSON.parse(readFileSync(`${modelPath}/config.json`, "utf8")));
    return { ...record, name, modelPath, config, tensors };
  } finally {
    await file.close();
  }
}

async function readFloats(file: SafetensorsFile, key: string): Promise<Float32Array> {
  const stored = file.tensor(key);
  if (stored.dtype !== "F32") throw new Error(`${stored.file}: ${key} is ${stored.dtype}, expected F32`);
  return new Float32Array((await stored.read()).slice().buffer);
}

/** A tensor of the fixture; a name that is not there is a mistake of the test. */
export function fixtureTensor(fixture: ParityCase, key: string): Float32Array {
  const values = fixture.tensors.get(key);
  if (!values) throw new Error(`fixture ${fixture.name} has no tensor "${key}"`);
  return values;
}

/** One trained matrix: where the fixture has it, and what our code calls it. */
export interface FixtureParameter {
  readonly layer: number;
  readonly linear: LinearName;
  readonly side: "A" | "B";
  /** `layers.0.self_attn.q_proj.a`, after `adapter.`, `rank4.grad.`, `curve.nested.` … */
  readonly key: string;
  /** `layers.0.q_proj.A`, the name in our adapter. */
  readonly name: string;
}

/** Every trained matrix of a model. The fixture has peft's own module paths, without a leading "model.". */
export function fixtureParameters({ config }: Pick<ParityCase, "config">): FixtureParameter[] {
  return Array.from({ length: config.layers }, (_, layer) => layer).flatMap((layer) =>
    linearNames(config).flatMap((linear) => {
      const module = linearPath(config.family, layer, linear).replace(/^model\./, "");
      return (["A", "B"] as const).map((side) => ({
        layer,
        linear,
        side,
        key: `${module}.${side.toLowerCase()}`,
        name: `layers.${layer}.${linear}.${side}`,
      }));
    }),
  );
}

/**
 * A matrix of the fixture with one row per rank, as our adapter stores it: A is [rank, K] already, peft's B [M, rank] is
 * transposed.
 */
export function rankRows(values: Float32Array, side: "A" | "B", rank: number): Float32Array {
  if (side === "A") return values;
  const width = values.length / rank;
  const rows = new Float32Array(values.length);
  for (let m = 0; m < width; m++) for (let r = 0; r < rank; r++) rows[r * width + m] = values[m * rank + r]!;
  return rows;
}

/** The fixture's A and B at R, by our names: what `Adapter.load` takes. */
export function adapterWeights(fixture: ParityCase): Map<string, Float32Array> {
  return new Map(
    fixtureParameters(fixture).map(({ key, name, side }) => [
      name,
      rankRows(fixtureTensor(fixture, `adapter.${key}`), side, fixture.rankMax),
    ]),
  );
}

export function adapterConfig(fixture: ParityCase, mode: AdapterConfig["mode"] = "dylora"): AdapterConfig {
  const { rankMax, alpha, scaleRule } = fixture;
  return {
    rankMax,
    alpha,
    scaleRule,
    targets: linearNames(fixture.config),
    mode,
    ranks: [1, 2, 4, 8],
    distribution: { kind: "range" },
    dropout: 0,
  };
}
