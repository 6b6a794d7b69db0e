// Scores of an adapter at every rank, with intervals: loss from per-sample losses, task metric from greedy answers.

import type { Adapter } from "../adapter/parameters.ts";
import type { Backend } from "../backends/backend.ts";
import type { Sample } from "../data/batch.ts";
import { evalBatches } from "../data/batches.ts";
import { evaluateRanks, type RankEvaluation } from "../eval/rank-sweep.ts";
import { answersOf, type Task, taskLength, taskOf } from "../eval/task-answers.ts";
import { type Estimate, type MetricName, measure, ratio } from "../eval/task-metrics.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import type { Shape } from "../model/graph.ts";
import { LossProgram } from "../model/loss-program.ts";
import { Engine } from "../serve/engine.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** Most rows of an evaluation batch, unless a sample is longer. */
const EVAL_ROWS = 1024;
const EVAL_SEGMENTS = 128;
/** Sequences answered side by side, and tokens of one pass. */
const SEQUENCES = 128;
const PASS_ROWS = 512;

export interface Scored {
  readonly rank: number;
  readonly loss: Estimate;
  readonly metric: Estimate | null;
  /** In the order of the samples; empty without a metric. */
  readonly answers: readonly string[];
}

export interface ScoreRequest {
  readonly backend: Backend;
  readonly model: FrozenModel;
  readonly tokenizer: Tokenizer;
  readonly adapter: Adapter;
  readonly samples: readonly Sample[];
  readonly ranks: readonly number[];
  readonly metric: MetricName | null;
  readonly seed: number;
  /** Hears of each rank as it is done. */
  readonly onScore?: ((score: Scored) => void) | undefined;
}

const evalRows = (samples: readonly Sample[]): number =>
  samples.reduce((most, { tokens }) => Math.max(most, tokens.length), EVAL_ROWS);

/** Row counts that no batch of `evaluationBatches` exceeds. */
export const scoringShape = (samples: readonly Sample[]): Shape => ({ N: evalRows(samples), S: EVAL_SEGMENTS, Q: 0 });

/** The samples once, in order, in batches for scoring. */
export const evaluationBatches = (samples: readonly Sample[]) => evalBatches(samples, evalRows(samples), EVAL_SEGMENTS);

/** Losses and, if asked for, the metric at every rank. */
export async function scoreRanks(request: ScoreRequest): Promise<Scored[]> {
  const { backend, model, adapter, samples } = request;
  using scorer = LossProgram.scorer(backend, model, adapter, scoringShape(samples));
  return scoreAnswers(request, await evaluateRanks(scorer, evaluationBatches(samples), adapter.config, request.ranks));
}

/** Adds the task metric, if one is asked for, to losses that are known. */
export async function scoreAnswers(request: ScoreRequest, evaluations: readonly RankEvaluation[]): Promise<Scored[]> {
  const { metric, tokenizer, samples, seed } = request;
  if (metric === null) return evaluations.map((evaluation) => tell(request, withoutMetric(evaluation, seed)));
  const task = taskOf(samples, tokenizer);
  using engine = openEngine(request, task);
  const scores: Scored[] = [];
  for (const evaluation of evaluations) {
    const answers = await answersOf(engine, task, evaluation.rank, tokenizer);
    const estimate = measure(metric, answers, task.references, seed);
    scores.push(tell(request, { ...withoutMetric(evaluation, seed), metric: estimate, answers }));
  }
  return scores;
}

function tell(request: ScoreRequest, score: Scored): Scored {
  request.onScore?.(score);
  return score;
}

function withoutMetric({ rank, samples }: RankEvaluation, seed: number): Scored {
  const loss = ratio(
    samples.map((sample) => ({ part: sample.loss, whole: sample.tokens })),
    seed,
  );
  return { rank, loss, metric: null, answers: [] };
}

function openEngine({ backend, model, adapter }: ScoreRequest, task: Task): Engine {
  const sequences = Math.min(SEQUENCES, task.prompts.length);
  return new Engine({
    backend,
    model,
    adapter,
    sequences,
    maxLength: taskLength(task),
    maxRows: Math.max(PASS_ROWS, sequences),
  });
}
