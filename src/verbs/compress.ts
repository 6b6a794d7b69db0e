// compress: any LoRA as an adapter that works at every rank, its directions sorted by singular values.

import { type AdapterConfig, defaultRanks } from "../adapter/config.ts";
import { writeAdapter } from "../adapter/file.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { adaptedLinears, largestRank, nestedModules, Spectrum } from "../adapter/nested-lora.ts";
import { Adapter, adapterLayout } from "../adapter/parameters.ts";
import { checkRank } from "../adapter/slice.ts";
import { createFolder, folderName, openFolder } from "../formats/node-files.ts";
import { sha256InBackground } from "../formats/node-sha256.ts";
import { type OpenPeftAdapter, openPeft, PEFT_WEIGHTS } from "../formats/peft.ts";
import type { ModelConfig } from "../model/config.ts";
import { modelCard } from "../report/model-card.ts";
import { peftUses } from "./export-peft.ts";
import { dtypeRules, type SliceSettings } from "./export-slice.ts";
import { identifyBase, type ModelFiles, type ModelSettings, openBase, openModelFiles } from "./open-model.ts";
import { type DataNames, readData } from "./read-data.ts";
import { type Scored, scoreRanks } from "./score.ts";
import type { DataSettings } from "./train-options.ts";
import { version } from "./version.ts";

export interface CompressOptions
  extends ModelSettings,
    SliceSettings,
    Pick<DataSettings, "overlong" | "lossOn" | "skipBadRows"> {
  /** A PEFT folder with a plain LoRA. `model` is the base it was trained on. */
  readonly adapter: string;
  /** Folder to write: an adapter. */
  readonly output: string;
  /** Keep so many directions of each linear. Default: all. */
  readonly rankMax?: number;
  /** Ranks to report. Default: 1, 2, 4, … the largest. */
  readonly ranks?: readonly number[];
  /** JSONL to measure the loss on at each of them. */
  readonly data?: DataNames;
  /** Longest sample of the data, in tokens. Default: what the base can attend to. */
  readonly seq?: number;
  /** Measure at most so many samples. */
  readonly limit?: number;
  readonly onScore?: (score: Scored) => void;
}

export interface CompressedRank {
  readonly rank: number;
  /** ‖ΔW − ΔW at this rank‖ / ‖ΔW‖ over all linears together. */
  readonly missed: number;
  /** Mean cross-entropy per token, nats; null without data. */
  readonly loss: number | null;
}

export interface Compressed {
  readonly output: string;
  readonly rankMax: number;
  readonly ranks: readonly CompressedRank[];
  /** Loss of the base alone; null without data. */
  readonly baseLoss: number | null;
}

/**
 * Writes the adapter in one step. Throws ADAPTER_INVALID (no plain LoRA, or not of this model), RANK_OUT_OF_RANGE, FILE_EXISTS,
 * WRITE_FAILED, and what opening the model and reading the data throws.
 */
export async function compress(options: CompressOptions): Promise<Compressed> {
  const source = await openFolder(options.adapter);
  const peft = await openPeft(source);
  try {
    await using files = await openModelFiles(options.model, options);
    const rankMax = options.rankMax ?? largestRank(peft);
    for (const rank of options.ranks ?? []) checkRank(rank, rankMax);
    checkRank(rankMax, largestRank(peft));
    const config = nestedConfig(rankMax, options.ranks, adaptedLinears(peft, files.config));
    const { tensors, spectrum } = await nestedTensors(peft, files.config, config);
    const sourceSha256 = await sha256InBackground(source, [PEFT_WEIGHTS], new AbortController().signal);
    const scored = options.data === undefined ? null : await measure(options, options.data, files, config, tensors);
    const manifest: AdapterManifest = {
      format: "qdylora-adapter/1",
      adapter: config,
      base: scored?.base ?? (await identifyBase(files, options.baseFormat)),
      scores: (scored?.scores ?? []).map(({ rank, loss }) => ({ rank, loss: loss.value })),
      updateErrors: config.ranks.map((rank) => ({ rank, relative: spectrum.relativeError(rank) })),
      provenance: {
        qdylora: version,
        node: process.version,
        device: scored?.device ?? "none",
        instructionSet: scored?.instructionSet ?? "none",
        seed: 0,
        steps: 0,
        dataSha256: null,
        madeFrom: { name: folderName(options.adapter), sha256: sourceSha256 },
        train: null,
      },
    };
    await write(options, manifest, tensors);
    return summary(options.output, manifest);
  } finally {
    await peft.close();
  }
}

/** The scale is in the rows, so that it is 1 at every rank. */
function nestedConfig(
  rankMax: number,
  ranks: readonly number[] = defaultRanks(rankMax),
  targets: readonly string[],
): AdapterConfig {
  return {
    rankMax,
    alpha: rankMax,
    scaleRule: "one",
    targets,
    mode: "fixed",
    ranks: [...new Set([...ranks, rankMax])].sort((a, b) => a - b),
    distribution: { kind: "uniform" },
    dropout: 0,
  };
}

/** Every tensor of the adapter; rows beyond a module's own rank, and modules that the LoRA leaves out, are zero. */
async function nestedTensors(peft: OpenPeftAdapter, model: ModelConfig, config: AdapterConfig) {
  const layout = adapterLayout(model, config);
  const tensors = new Map(layout.map(({ name, cols }) => [name, new Float32Array(config.rankMax * cols)]));
  const spectrum = new Spectrum();
  for await (const module of nestedModules(peft, model)) {
    spectrum.add(module);
    for (const [side, rows] of [
      ["A", module.a],
      ["B", module.bTransposed],
    ] as const) {
      const kept = Math.min(module.rank, config.rankMax);
      const all = tensors.get(`layers.${module.layer}.${module.linear}.${side}`)!;
      all.set(rows.subarray(0, (rows.length / module.rank) * kept));
    }
  }
  return { tensors, spectrum };
}

async function measure(
  options: CompressOptions,
  data: DataNames,
  files: ModelFiles,
  config: AdapterConfig,
  tensors: ReadonlyMap<string, Float32Array>,
) {
  await using base = await openBase(files, options);
  const { backend, model, tokenizer } = base;
  using adapter = new Adapter(backend, model.config, config, model.computeDtype, null);
  adapter.load(tensors);
  const { seq = model.config.maxPositions, overlong, lossOn, skipBadRows } = options;
  const loading = {
    seq,
    ...(overlong && { overlong }),
    ...(lossOn && { lossOn }),
    ...(skipBadRows && { skipBadRows }),
  };
  const { samples } = await readData(data, tokenizer, loading);
  const scores = await scoreRanks({
    ...{ backend, model, tokenizer, adapter, metric: null, seed: 0, onScore: options.onScore },
    samples: samples.slice(0, options.limit),
    ranks: [0, ...config.ranks],
  });
  return { base: model.identity, scores, device: backend.description, instructionSet: backend.instructionSet };
}

async function write(
  { adapter, output, dtype }: CompressOptions,
  manifest: AdapterManifest,
  tensors: ReadonlyMap<string, Float32Array>,
): Promise<void> {
  const { rankMax } = manifest.adapter;
  await createFolder(output, async (folder) => {
    await writeAdapter(folder, { rank: rankMax, tensors }, manifest, dtypeRules(dtype));
    const card = modelCard({
      name: folderName(output),
      rank: rankMax,
      rankMax,
      manifest,
      library: "peft",
      holds: `The LoRA ${folderName(adapter)} with its directions sorted by singular values, in the layout of PEFT.`,
      uses: peftUses(manifest.base.name, rankMax),
    });
    await folder.write("README.md", new TextEncoder().encode(card));
  });
}

function summary(output: string, { adapter, scores, updateErrors }: AdapterManifest): Compressed {
  const lossAt = (rank: number) => scores.find((score) => score.rank === rank)?.loss ?? null;
  const ranks = updateErrors!.map(({ rank, relative }) => ({ rank, missed: relative, loss: lossAt(rank) }));
  return { output, rankMax: adapter.rankMax, ranks, baseLoss: lossAt(0) };
}
