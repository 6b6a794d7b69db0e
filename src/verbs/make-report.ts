// The report of an adapter, from its manifest, scores and training events.

import type { AdapterConfig } from "../adapter/config.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { adapterLayout } from "../adapter/parameters.ts";
import { rankProbabilities } from "../adapter/rank-draw.ts";
import type { Sample } from "../data/batch.ts";
import { taskOf } from "../eval/task-answers.ts";
import type { MetricName } from "../eval/task-metrics.ts";
import type { ModelConfig } from "../model/config.ts";
import type { Report, ReportRank, ReportSample } from "../report/report.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { TrainEvent } from "../train/events.ts";
import type { Scored } from "./score.ts";
import { provenanceText, settingsText } from "./settings-text.ts";

const SHOWN_SAMPLES = 8;
const F32_BYTES = 4;

export interface ReportRequest {
  readonly title: string;
  readonly summary: string;
  readonly manifest: AdapterManifest;
  readonly model: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly heldOut: readonly Sample[];
  readonly metric: MetricName | null;
  readonly scores: readonly Scored[];
  /** Of the whole run; empty for an evaluation alone. */
  readonly events: readonly TrainEvent[];
}

export function makeReport(request: ReportRequest): Report {
  const { title, summary, manifest, model, scores, events, heldOut, metric } = request;
  return {
    format: "qdylora-report/1",
    title,
    summary,
    metricName: metric,
    heldOut: { samples: heldOut.length, tokens: heldOut.reduce((sum, sample) => sum + supervisedTokens(sample), 0) },
    ranks: scores.map((score) => rankOf(score, model, manifest.adapter)),
    steps: events.flatMap((event) =>
      event.type === "step" ? [{ step: event.step + 1, loss: event.loss, rank: event.rank }] : [],
    ),
    evaluations: events.flatMap((event) => (event.type === "eval" ? [{ step: event.step, scores: event.scores }] : [])),
    samples: samplesOf(request),
    settings: settingsText(manifest),
    provenance: provenanceText(manifest),
  };
}

/** Bytes of the tensors of the adapter exported at `rank` in f32. */
export function adapterBytesAt(model: ModelConfig, config: AdapterConfig, rank: number): number {
  return adapterLayout(model, config).reduce((sum, { cols }) => sum + cols, 0) * rank * F32_BYTES;
}

function rankOf({ rank, loss, metric }: Scored, model: ModelConfig, config: AdapterConfig): ReportRank {
  const drawn = (rankProbabilities(config)[rank - 1] ?? 0) > 0;
  return { rank, loss, metric, adapterBytes: adapterBytesAt(model, config, rank), trained: rank === 0 || drawn };
}

/** The base, the smallest and the largest rank side by side on a few samples spread over the data. */
function samplesOf({ scores, heldOut, tokenizer, metric }: ReportRequest): ReportSample[] {
  if (metric === null || heldOut.length === 0) return [];
  const adapted = scores.filter(({ rank }) => rank > 0);
  const shown = [scores.find(({ rank }) => rank === 0), adapted[0], adapted.at(-1)].filter(
    (score) => score !== undefined,
  );
  const { prompts, references } = taskOf(heldOut, tokenizer);
  const picks = Array.from({ length: Math.min(SHOWN_SAMPLES, heldOut.length) }, (_, i) =>
    Math.floor(((i + 0.5) * heldOut.length) / SHOWN_SAMPLES),
  );
  return [...new Set(picks.filter((index) => index < heldOut.length))].map((index) => ({
    prompt: tokenizer.decode(prompts[index]!, { skipSpecial: true }),
    reference: references[index]!,
    answers: [...new Set(shown)].map(({ rank, answers }) => ({ rank, text: answers[index]! })),
  }));
}

const supervisedTokens = ({ supervised }: Sample): number => supervised.reduce((sum, flag) => sum + flag, 0);
