// evaluate: how good an adapter is at each rank on data of the user's.

import { basename, dirname } from "node:path";
import type { MetricName } from "../eval/task-metrics.ts";
import { openFolder } from "../formats/node-files.ts";
import { reportHtml } from "../report/html.ts";
import type { Report } from "../report/report.ts";
import { makeReport } from "./make-report.ts";
import { type AdapterSettings, openAdapter, rankOrLargest } from "./open-adapter.ts";
import { throwProblems } from "./problems.ts";
import { type DataNames, readData } from "./read-data.ts";
import { type Scored, scoreRanks } from "./score.ts";
import { columnProblems, type DataSettings } from "./train-options.ts";

export interface EvaluateOptions
  extends AdapterSettings,
    Pick<DataSettings, "overlong" | "skipBadRows" | "lossOn" | "columns"> {
  /** JSONL files or folders of them. */
  readonly data: DataNames;
  /** Default: the ranks the adapter was trained for. Rank 0, the base, is always measured. */
  readonly ranks?: readonly number[];
  readonly metric?: MetricName | "none";
  /** Measure at most so many samples, from the start of the data. */
  readonly limit?: number;
  /** Longest sample, in tokens. Default: what the base can attend to. */
  readonly seq?: number;
  /** Seed of the bootstrap. */
  readonly seed?: number;
  /** HTML file to write the report to. */
  readonly report?: string;
  readonly onScore?: (score: Scored) => void;
}

/** Throws RANK_OUT_OF_RANGE, and what opening the adapter and reading the data throws. */
export async function evaluate(options: EvaluateOptions): Promise<Report> {
  if (options.limit !== undefined && !(Number.isSafeInteger(options.limit) && options.limit > 0))
    throwProblems("eval", [{ key: "limit", got: options.limit, expected: "a whole number from 1" }]);
  throwProblems("eval", columnProblems(options.columns));
  await using opened = await openAdapter(options);
  const { base, adapter, manifest } = opened;
  const ranks = [...new Set(options.ranks ?? adapter.config.ranks)]
    .map((rank) => rankOrLargest(rank, adapter.rankMax))
    .sort((a, b) => a - b);
  const loading = {
    seq: options.seq ?? base.model.config.maxPositions,
    ...(options.overlong ? { overlong: options.overlong } : {}),
    ...(options.lossOn ? { lossOn: options.lossOn } : {}),
    ...(options.skipBadRows ? { skipBadRows: true } : {}),
    ...(options.columns ? { columns: options.columns } : {}),
  };
  const dataset = await readData(options.data, base.tokenizer, loading);
  const samples = dataset.samples.slice(0, options.limit);
  const metric = options.metric === undefined || options.metric === "none" ? null : options.metric;
  const seed = options.seed ?? manifest.provenance.seed;
  const request = { ...base, adapter, samples, ranks: [0, ...ranks.filter((rank) => rank > 0)], metric, seed };
  const scores = await scoreRanks({ ...request, onScore: options.onScore });
  const report = makeReport({
    title: `Adapter for ${base.model.identity.name}`,
    summary: `The adapter in ${basename(options.adapter)}, measured at each rank on ${samples.length} samples.`,
    manifest,
    model: base.model.config,
    tokenizer: base.tokenizer,
    heldOut: samples,
    metric,
    scores,
    events: [],
  });
  if (options.report !== undefined) await writeReport(options.report, report);
  return report;
}

async function writeReport(file: string, report: Report): Promise<void> {
  const folder = await openFolder(dirname(file), { write: true });
  await folder.write(basename(file), new TextEncoder().encode(reportHtml(report)));
}
