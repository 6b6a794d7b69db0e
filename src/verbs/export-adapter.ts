// export: ranks of an adapter as folders of their own, in the formats of other tools, each with a model card.

import { basename, join, resolve } from "node:path";
import { readAdapter } from "../adapter/file.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { sliceConfig, sliceWeights } from "../adapter/slice.ts";
import { createFolder, openFolder } from "../formats/node-files.ts";
import { modelCard } from "../report/model-card.ts";
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
   * merged: a model folder, the base with the adapter in its weights. The settings from `model` on are for it alone.
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

const WRITERS = { peft: exportPeft, merged: exportMerged } as const satisfies Record<
  string,
  SliceWriter<ExportOptions>
>;
export type ExportFormat = keyof typeof WRITERS;

/**
 * Writes the folder in one step: on any failure nothing is left behind.
 * Throws RANK_OUT_OF_RANGE, CONFIG_INVALID, FILE_EXISTS (the output is not empty), ADAPTER_INVALID, WRITE_FAILED,
 * and with format merged ADAPTER_BASE_MISMATCH and what opening the model throws.
 */
export async function exportAdapter(options: ExportOptions): Promise<Exported> {
  const { adapter, output, format = "peft" } = options;
  if (format !== "merged") refuseMergeSettings(options);
  const { weights, manifest } = await readAdapter(await openFolder(adapter));
  const ranks = chosenRanks(options, weights.rank);
  const several = options.ranks !== undefined;
  const done = await createFolder(output, async (folder) => {
    const exported: ExportedRank[] = [];
    for (const rank of ranks) {
      const name = several ? `rank-${rank}` : basename(resolve(output));
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

/** Settings that would have no effect. */
function refuseMergeSettings(options: ExportOptions): void {
  const keys = ["model", "forceBase", "onto", "requantize", "shardSize", "backend", "threads", "isa"] as const;
  throwProblems(
    "export",
    keys
      .filter((key) => options[key] !== undefined)
      .map((key) => ({
        key,
        got: options[key],
        expected: "format merged with it",
        because: "other formats have nothing to do with base weights",
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
