// export: one rank of an adapter as an adapter of its own, that PEFT loads and this package too.

import { readAdapter, writeAdapter } from "../adapter/file.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { sliceConfig, sliceWeights } from "../adapter/slice.ts";
import { QdlError } from "../errors.ts";
import { openFolder } from "../formats/node-files.ts";
import { PEFT_CONFIG, PEFT_WEIGHTS } from "../formats/peft.ts";
import { rankOrLargest } from "./open-adapter.ts";
import { throwProblems } from "./problems.ts";

export interface ExportOptions {
  /** The adapter's folder. */
  readonly adapter: string;
  /** Default: the adapter's largest. */
  readonly rank?: number;
  /** A PEFT folder, with this package's manifest beside it. */
  readonly format?: "peft";
  /** Folder to write. */
  readonly output: string;
}

export interface Exported {
  readonly output: string;
  readonly rank: number;
  /** Bytes of the weights file. */
  readonly bytes: number;
}

/** Throws RANK_OUT_OF_RANGE, FILE_EXISTS (the output holds an adapter), ADAPTER_INVALID, WRITE_FAILED. */
export async function exportAdapter({ adapter, rank, output }: ExportOptions): Promise<Exported> {
  const { weights, manifest } = await readAdapter(await openFolder(adapter));
  const chosen = rankOrLargest(rank, weights.rank);
  if (chosen === 0)
    throwProblems("export", [
      { key: "rank", got: 0, expected: `a whole number from 1 to ${weights.rank}`, code: "RANK_OUT_OF_RANGE" },
    ]);
  const folder = await openFolder(output, { write: true });
  if (await folder.exists(PEFT_CONFIG))
    throw new QdlError("FILE_EXISTS", `output: ${output} already holds an adapter, expected a new folder`, {
      hint: "Choose another --output.",
      details: { path: output },
    });
  await writeAdapter(folder, sliceWeights(weights, chosen), slicedManifest(manifest, chosen));
  const file = await folder.open(PEFT_WEIGHTS);
  await file.close();
  return { output, rank: chosen, bytes: file.size };
}

function slicedManifest(manifest: AdapterManifest, rank: number): AdapterManifest {
  return {
    ...manifest,
    adapter: sliceConfig(manifest.adapter, rank),
    scores: manifest.scores.filter((score) => score.rank <= rank),
  };
}
