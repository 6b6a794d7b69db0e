// An adapter on disk: a PEFT folder at rank R, which other tools load as it is, and our manifest beside it.

import { z } from "zod";
import { QdlError } from "../errors.ts";
import type { Folder } from "../formats/folder.ts";
import type { DTypeRule } from "../formats/output-dtype.ts";
import { openPeft, type PeftAdapter, type PeftModule, peftScale, writePeft } from "../formats/peft.ts";
import { FAMILY_NAMES, type FamilyName, type LinearName, type ModelConfig } from "../model/config.ts";
import { FAMILIES, linearAt, linearPath } from "../model/families/index.ts";
import type { BaseIdentity } from "../model/frozen-model.ts";
import type { AdapterManifest } from "./manifest.ts";
import { adapterLayout } from "./parameters.ts";
import type { AdapterWeights } from "./slice.ts";

export const MANIFEST = "qdylora.json";

export interface StoredAdapter {
  readonly weights: AdapterWeights;
  readonly manifest: AdapterManifest;
}

/** Writes the PEFT files, then the manifest, which says that the adapter is whole. Throws WRITE_FAILED, TENSOR_NONFINITE (f16). */
export async function writeAdapter(
  folder: Folder,
  { rank, tensors }: AdapterWeights,
  manifest: AdapterManifest,
  dtypes: readonly DTypeRule[] = [],
): Promise<void> {
  await writePeft(folder, peftAdapter({ rank, tensors }, manifest), dtypes);
  await folder.write(MANIFEST, new TextEncoder().encode(`${JSON.stringify(manifest, null, 2)}\n`));
}

/** The adapter as PEFT describes one: module paths, and alpha for its rank. */
export function peftAdapter({ rank, tensors }: AdapterWeights, { adapter, base }: AdapterManifest): PeftAdapter {
  const modules = [...tensors.keys()]
    .filter((name) => name.endsWith(".A"))
    .map((name) => peftModule(base.family, name, rank, tensors));
  const scale = peftScale(adapter.scaleRule, { alpha: adapter.alpha, rankMax: adapter.rankMax, rank });
  const fanInFanOut = FAMILIES[base.family].tensors.transposed ?? false;
  return { ...scale, baseModel: base.name, revision: base.revision, fanInFanOut, modules };
}

/** Throws FILE_NOT_FOUND, ADAPTER_INVALID, SAFETENSORS_INVALID, TENSOR_NONFINITE. */
export async function readAdapter(folder: Folder): Promise<StoredAdapter> {
  const manifest = await readManifest(folder);
  const peft = await openPeft(folder);
  try {
    const { rankMax, targets } = manifest.adapter;
    const other = peft.modules.find((module) => module.rank !== rankMax);
    if (other) throw invalid(folder, `${other.path} has rank ${other.rank}, expected ${rankMax} as in ${MANIFEST}`);
    const tensors = new Map<string, Float32Array>();
    const { family } = manifest.base;
    for (const module of peft.modules) {
      const prefix = tensorPrefix(folder, family, module.path, targets);
      tensors.set(`${prefix}.A`, await module.a());
      tensors.set(`${prefix}.B`, await module.bTransposed());
    }
    return { weights: { rank: rankMax, tensors }, manifest };
  } finally {
    await peft.close();
  }
}

/**
 * Throws ADAPTER_BASE_MISMATCH naming what differs, unless `force`; ADAPTER_INVALID if its shapes cannot fit the model at
 * all, forced or not.
 */
export function checkFits(
  { weights, manifest }: StoredAdapter,
  model: ModelConfig,
  base: BaseIdentity,
  force: boolean,
): void {
  const keys = ["sha256", "format", "blockSize", "doubleQuant", "templateSha256"] as const;
  const differing = keys.filter((key) => manifest.base[key] !== base[key]);
  if (differing.length > 0 && !force)
    throw new QdlError(
      "ADAPTER_BASE_MISMATCH",
      `the adapter was trained on ${describe(manifest.base)}, the base given is ${describe(base)}: ${differing.join(", ")} differ`,
      {
        hint: `Give the base it was trained on (${manifest.base.name}), or pass --force-base if you know that it fits.`,
        details: { differing, trainedOn: manifest.base, given: base },
      },
    );
  const layout = adapterLayout(model, manifest.adapter);
  for (const { name, cols } of layout) {
    const got = weights.tensors.get(name)?.length;
    if (got !== cols * weights.rank)
      throw new QdlError(
        "ADAPTER_INVALID",
        `adapter tensor ${name} has ${got === undefined ? "no values" : `${got / weights.rank} columns`}, expected ${cols} because of the model's shape`,
        { hint: `Use it with the base it was trained on: ${manifest.base.name}.`, details: { tensor: name } },
      );
  }
  if (layout.length !== weights.tensors.size)
    throw new QdlError(
      "ADAPTER_INVALID",
      `the adapter has ${weights.tensors.size} tensors, expected ${layout.length} for this model`,
      {
        hint: `Use it with the base it was trained on: ${manifest.base.name}.`,
      },
    );
}

const describe = ({ name, sha256, format }: BaseIdentity): string =>
  `${name} (${format}, sha256 ${sha256.slice(0, 12)}…)`;

/** `layers.3.q_proj.A` → the module of PEFT. */
function peftModule(
  family: FamilyName,
  name: string,
  rank: number,
  tensors: ReadonlyMap<string, Float32Array>,
): PeftModule {
  const [, layer, linear] = /^layers\.(\d+)\.(.+)\.A$/.exec(name) as unknown as [string, string, LinearName];
  const a = tensors.get(name)!;
  const b = tensors.get(`layers.${layer}.${linear}.B`)!;
  return {
    path: linearPath(family, Number(layer), linear),
    target: linear,
    in: a.length / rank,
    out: b.length / rank,
    a: () => Promise.resolve(a),
    bTransposed: () => Promise.resolve(b),
  };
}

/** `model.layers.3.self_attn.q_proj` → `layers.3.q_proj` */
function tensorPrefix(folder: Folder, family: FamilyName, path: string, targets: readonly LinearName[]): string {
  const place = linearAt(family, path);
  if (place && targets.includes(place.linear)) return `layers.${place.layer}.${place.linear}`;
  throw invalid(folder, `module ${path} is not one of the targets ${targets.join(", ")}`);
}

const positive = z.number().positive();
const rank = z.int().min(1);

const ADAPTER = z
  .object({
    rankMax: rank,
    alpha: positive,
    scaleRule: z.enum(["alpha/b", "alpha/R", "alpha/sqrt(b)", "one"]),
    targets: z.array(z.string()).min(1),
    mode: z.enum(["dylora", "frozen", "fixed"]),
    ranks: z.array(rank).min(1),
    distribution: z.discriminatedUnion("kind", [
      z.object({ kind: z.literal("uniform") }),
      z.object({ kind: z.literal("range") }),
      z.object({ kind: z.literal("geometric"), p: positive }),
      z.object({ kind: z.literal("weights"), weights: z.array(z.number().nonnegative()) }),
      z.object({ kind: z.literal("mixture"), share: z.number().min(0).max(1) }),
    ]),
    dropout: z.number().min(0).lt(1),
  })
  .refine(({ ranks, rankMax }) => ranks.every((r) => r <= rankMax), { error: "ranks must not exceed rankMax" });

const MANIFEST_SCHEMA = z.object({
  format: z.literal("qdylora-adapter/1"),
  adapter: ADAPTER,
  base: z.object({
    name: z.string(),
    revision: z.string().nullable(),
    /** Adapters from before there were several. */
    family: z.enum(FAMILY_NAMES).default("llama"),
    sha256: z.string(),
    format: z.enum(["nf4", "fp4", "bf16", "f32"]),
    blockSize: z.int(),
    doubleQuant: z.boolean(),
    templateSha256: z.string().nullable(),
  }),
  scores: z.array(z.object({ rank: z.int().min(0), loss: z.number(), metric: z.number().optional() })),
  metricName: z.string().optional(),
  updateErrors: z.array(z.object({ rank: z.int().min(1), relative: z.number() })).optional(),
  provenance: z.looseObject({ qdylora: z.string() }),
});

async function readManifest(folder: Folder): Promise<AdapterManifest> {
  if (!(await folder.exists(MANIFEST)))
    throw new QdlError("ADAPTER_INVALID", `${folder.path} has no ${MANIFEST}, expected an adapter that qdylora wrote`, {
      hint: "Give the --output folder of a finished `qdylora train`.",
      details: { path: folder.path },
    });
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await folder.read(MANIFEST)));
  } catch (cause) {
    throw invalid(folder, `${MANIFEST} is not valid JSON`, cause);
  }
  const parsed = MANIFEST_SCHEMA.safeParse(json);
  if (parsed.success) return parsed.data as unknown as AdapterManifest;
  throw invalid(
    folder,
    parsed.error.issues.map(({ path, message }) => `${path.join(".") || MANIFEST}: ${message}`).join("; "),
  );
}

function invalid(folder: Folder, what: string, cause?: unknown): QdlError {
  return new QdlError("ADAPTER_INVALID", `${folder.path}: ${what}`, {
    hint: "The folder is incomplete or was changed; train again, or resume the run that wrote it.",
    details: { path: folder.path },
    cause,
  });
}
