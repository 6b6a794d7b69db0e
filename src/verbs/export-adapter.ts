// export: ranks of an adapter as folders of their own, in the formats of other tools, each with a model card.

import { join } from "node:path";
import { readAdapter } from "../adapter/file.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { sliceConfig, sliceWeights } from "../adapter/slice.ts";
import { createFolder, folderName, openFolder } from "../formats/node-files.ts";
import { modelCard } from "../report/model-card.ts";
import { exportGguf, exportMergedGguf } from "./export-gguf.ts";
import { exportMerged, type MergeSettings } from "./export-merged.ts";
import { exportPeft } from "./export-peft.ts";
import type { MergeError, SliceWriter } from "./export-slice.ts";
import { rankOrLargest } from "./open-adapter.ts";
import { throwProblems } from "./problems.ts";

export interface ExportOptions extends MergeSettings {
  /** The adapter's folder. */
  readonly adapter: string;
  /** Default: the adapter's largest. */
  readonly rank?: number;
  /** Several ranks at once: each goes into a folder `rank-B` of `output`. Excludes `rank`. */
  readonly ranks?: readonly number[];
  /**
   * peft: a PEFT folder, with this package's manifest beside it; the default.
   * gguf: a LoRA adapter for llama.cpp; it needs the base's files for names and the order of rows.
   * merged: a model folder, the base with the adapter in its weights. merged-gguf: the same as one GGUF file.
   */
  readonly format?: ExportFormat;
  /** Folder to write. */
  readonly output: string;
}

export interface ExportedRank {
  readonly rank: number;
  /** Its folder. */
  readonly output: string;
  /** Bytes of the weights. */
  readonly bytes: number;
  /** Of merged weights. */
  readonly error?: MergeError;
}

export interface Exported {
  readonly output: string;
  readonly format: ExportFormat;
  readonly ranks: readonly ExportedRank[];
}

const WRITERS = {
  peft: exportPeft,
  gguf: exportGguf,
  merged: exportMerged,
  "merged-gguf": exportMergedGguf,
} as const satisfies Record<string, SliceWriter<ExportOptions>>;
export type ExportFormat = keyof typeof WRITERS;

/**
 * Writes the folder in one step: on any failure nothing is left behind.
 * Throws RANK_OUT_OF_RANGE, CONFIG_INVALID, FILE_EXISTS (the output is not empty), ADAPTER_INVALID, WRITE_FAILED,
 * and with formats other than peft ADAPTER_BASE_MISMATCH and what opening the model throws.
 */
export async function exportAdapter(options: ExportOptions): Promise<Exported> {
  const { adapter, output, format = "peft" } = options;
  refuseIdleSettings(options, format);
  const { weights, manifest } = await readAdapter(await openFolder(adapter));
  const ranks = chosenRanks(options, weights.rank);
  const several = options.ranks !== undefined;
  const done = await createFolder(output, async (folder) => {
    const exported: ExportedRank[] = [];
    for (const rank of ranks) {
      const name = several ? `rank-${rank}` : folderName(output);
      const slice = { rank, weights: sliceWeights(weights, rank), manifest: slicedManifest(manifest, rank) };
      const target = several ? await openFolder(join(folder.path, name), { write: true }) : folder;
      const { bytes, error, ...about } = await WRITERS[format](slice, target, options);
      const card = modelCard({ name, rank, rankMax: weights.rank, manifest, ...about });
      await target.write("README.md", new TextEncoder().encode(card));
      exported.push({ rank, output: several ? join(output, name) : output, bytes, ...(error && { error }) });
    }
    return exported;
  });
  return { output, format, ranks: done };
}

/** Settings by the formats in which they have an effect. */
const EFFECTS = {
  model: ["gguf", "merged", "merged-gguf"],
  forceBase: ["gguf", "merged", "merged-gguf"],
  onto: ["merged", "merged-gguf"],
  backend: ["merged", "merged-gguf"],
  threads: ["merged", "merged-gguf"],
  isa: ["merged", "merged-gguf"],
  requantize: ["merged"],
  shardSize: ["merged"],
} as const satisfies Partial<Record<keyof ExportOptions, readonly ExportFormat[]>>;

/** Throws for settings that would have no effect. */
function refuseIdleSettings(options: ExportOptions, format: ExportFormat): void {
  const keys = Object.keys(EFFECTS) as (keyof typeof EFFECTS)[];
  throwProblems(
    "export",
    keys
      .filter((key) => options[key] !== undefined && !(EFFECTS[key] as readonly string[]).includes(format))
      .map((key) => ({
        key,
        got: options[key],
        expected: `format ${EFFECTS[key].join(" or ")} with it`,
        because: `format ${format} has nothing to do with it`,
      })),
  );
}

function chosenRanks({ rank, ranks }: ExportOptions, rankMax: number): number[] {
  if (rank !== undefined && ranks !== undefined)
    throwProblems("export", [{ key: "ranks", got: ranks, expected: "rank or ranks, not both" }]);
  const chosen = [...new Set(ranks ?? [rank])].map((one) => rankOrLargest(one, rankMax));
  if (chosen.includes(0))
    throwProblems("export", [
      { key: "rank", got: 0, expected: `a whole number from 1 to ${rankMax}`, code: "RANK_OUT_OF_RANGE" },
    ]);
  return chosen;
}

function slicedManifest(manifest: AdapterManifest, rank: number): AdapterManifest {
  return {
    ...manifest,
    adapter: sliceConfig(manifest.adapter, rank),
    scores: manifest.scores.filter((score) => score.rank <= rank),
    ...(manifest.updateErrors && { updateErrors: manifest.updateErrors.filter((error) => error.rank <= rank) }),
  };
}
