// What a report says, as data: the page is drawn from this object and nothing else.

import type { Estimate, MetricName } from "../eval/task-metrics.ts";
import type { RankScore } from "../train/events.ts";

export interface ReportRank {
  /** 0: the base alone. */
  readonly rank: number;
  /** Held-out cross-entropy per supervised token, nats. */
  readonly loss: Estimate;
  readonly metric: Estimate | null;
  /** Size of the adapter sliced at this rank; 0 for the base. */
  readonly adapterBytes: number;
  /** The rank was drawn in training. */
  readonly trained: boolean;
}

export interface ReportStep {
  readonly step: number;
  readonly loss: number;
  readonly rank: number;
}

export interface ReportSample {
  readonly prompt: string;
  readonly reference: string;
  /** One per rank shown, the base (rank 0) first. */
  readonly answers: readonly { readonly rank: number; readonly text: string }[];
}

export interface Report {
  readonly format: "qdylora-report/1";
  readonly title: string;
  /** One sentence: what was trained on what. */
  readonly summary: string;
  readonly metricName: MetricName | null;
  readonly heldOut: { readonly samples: number; readonly tokens: number };
  /** Ascending by rank, the base first. */
  readonly ranks: readonly ReportRank[];
  readonly steps: readonly ReportStep[];
  /** Held-out loss during training. */
  readonly evaluations: readonly { readonly step: number; readonly scores: readonly RankScore[] }[];
  readonly samples: readonly ReportSample[];
  readonly settings: Readonly<Record<string, string>>;
  readonly provenance: Readonly<Record<string, string>>;
}

/** The metric for people. */
export const METRIC_LABELS: Readonly<Record<MetricName, string>> = {
  "exact-match": "Exact match",
  "error-rate": "Error rate",
};

/** 12.3 %, held together by a no-break space. */
export const percent = (share: number): string => `${(100 * share).toFixed(1)}\u00a0%`;

/** The best rank: the lowest error or highest match, or the lowest loss when no metric was measured. Base excluded. */
export function bestRank(report: Pick<Report, "ranks" | "metricName">): ReportRank | null {
  const better = (a: ReportRank, b: ReportRank): boolean => {
    if (!a.metric || !b.metric) return a.loss.value < b.loss.value;
    return report.metricName === "exact-match" ? a.metric.value > b.metric.value : a.metric.value < b.metric.value;
  };
  const ranks = report.ranks.filter(({ rank }) => rank > 0);
  return ranks.reduce<ReportRank | null>((best, rank) => (best === null || better(rank, best) ? rank : best), null);
}
