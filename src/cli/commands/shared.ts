// What several commands share: option groups, and how scores look.

import type { MetricName } from "../../eval/task-metrics.ts";
import type { Report, ReportRank } from "../../report/report.ts";
import { METRIC_LABELS, percent } from "../../report/report.ts";
import type { Context } from "../command.ts";
import { showBytes, table } from "../style.ts";

/** What computes. */
export const BACKEND_OPTIONS = ["backend", "threads", "isa", "device", "deterministic"] as const;
/** Where and how a base runs. */
export const DEVICE_OPTIONS = ["baseFormat", "compute", ...BACKEND_OPTIONS] as const;
export const ADAPTER_OPTIONS = ["model", "forceBase", ...DEVICE_OPTIONS] as const;
export const SAMPLING_OPTIONS = [
  "maxNewTokens",
  "temperature",
  "topP",
  "topK",
  "minP",
  "repetitionPenalty",
  "stop",
  "seed",
] as const;
/** What shapes a run's numbers, its data and its memory. */
export const RUN_OPTIONS = [
  "model",
  "data",
  "heldOut",
  "overlong",
  "lossOn",
  "skipBadRows",
  "columns",
  "rankMax",
  "ranks",
  "alpha",
  "scale",
  "mode",
  "distribution",
  "targets",
  "steps",
  "epochs",
  "lr",
  "schedule",
  "warmup",
  "batch",
  "accumulation",
  "seq",
  "packing",
  "beta1",
  "beta2",
  "epsilon",
  "weightDecay",
  "clip",
  "optimizerState",
  "offloadActivations",
  "denseOptimizer",
  "loraPlus",
  "dropout",
  "seed",
  "memory",
  ...DEVICE_OPTIONS,
] as const;

/** "2.413 (2.380 – 2.446)" */
const withInterval = (
  { value, low, high }: { value: number; low: number; high: number },
  show: (value: number) => string,
): string => `${show(value)} (${show(low)} – ${show(high)})`;

const loss = (value: number): string => value.toFixed(3);

/** The scores at every rank, with 95 % intervals. */
export function scoreTable(report: Report, { style }: Context): string {
  const { metricName } = report;
  const header = [
    "rank",
    "loss (95 %)",
    ...(metricName ? [`${METRIC_LABELS[metricName].toLowerCase()} (95 %)`] : []),
    "adapter",
  ];
  return table(
    header,
    report.ranks.map((rank) => scoreRow(rank)),
    style,
  );
}

function scoreRow(rank: ReportRank): string[] {
  return [
    rank.rank === 0 ? "base" : String(rank.rank),
    withInterval(rank.loss, loss),
    ...(rank.metric ? [withInterval(rank.metric, percent)] : []),
    rank.rank === 0 ? "" : showBytes(rank.adapterBytes),
  ];
}

/** One finished rank, as a line. */
export function scoreLine(
  score: { rank: number; loss: { value: number }; metric: { value: number } | null },
  metric: MetricName | null,
): string {
  const name = score.rank === 0 ? "base" : `rank ${score.rank}`;
  const task = score.metric && metric ? `, ${METRIC_LABELS[metric].toLowerCase()} ${percent(score.metric.value)}` : "";
  return `  ${name}: loss ${loss(score.loss.value)}${task}`;
}

/** The scores as --json prints them. */
export const scoresJson = (report: Report) =>
  report.ranks.map(({ rank, loss, metric, adapterBytes }) => ({
    rank,
    loss: loss.value,
    lossInterval: [loss.low, loss.high],
    metric: metric?.value ?? null,
    metricInterval: metric ? [metric.low, metric.high] : null,
    adapterBytes,
  }));
