// A task: held-out samples as prompts with the answers expected, and what a model answers to them.

import type { Sample } from "../data/batch.ts";
import { chatStopIds } from "../data/chat.ts";
import { QdlError } from "../errors.ts";
import type { Engine } from "../serve/engine.ts";
import { generateBatch } from "../serve/generate.ts";
import { GREEDY } from "../serve/sampler.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

export interface Task {
  /** Ids up to the first supervised token of each sample. */
  readonly prompts: readonly Int32Array[];
  /** Text of the supervised tokens that follow. */
  readonly references: readonly string[];
  /** Most tokens that an answer may have: as many as the longest reference, and a few. */
  readonly maxNewTokens: number;
  readonly stopIds: readonly number[];
}

const SPARE_TOKENS = 4;

/** The first answer of each sample. Throws DATA_UNSUPPORTED for plain text, which asks nothing. */
export function taskOf(samples: readonly Sample[], tokenizer: Tokenizer): Task {
  const spans = samples.map(answerSpan);
  const prompts = samples.map((sample, i) => sample.tokens.subarray(0, spans[i]!.from));
  const references = samples.map(({ tokens }, i) =>
    tokenizer.decode(tokens.subarray(spans[i]!.from, spans[i]!.to), { skipSpecial: true }),
  );
  const longest = spans.reduce((most, { from, to }) => Math.max(most, to - from), 0);
  const stopIds = tokenizer.template === null ? tokenizer.eosIds : chatStopIds(tokenizer);
  return { prompts, references, maxNewTokens: longest + SPARE_TOKENS, stopIds };
}

/** Rows of the longest prompt with its answer. */
export const taskLength = (task: Task): number =>
  task.prompts.reduce((most, prompt) => Math.max(most, prompt.length), 0) + task.maxNewTokens;

/** Greedy answers at one rank (0: the base alone), in the order of the prompts. */
export async function answersOf(engine: Engine, task: Task, rank: number, tokenizer: Tokenizer): Promise<string[]> {
  const { prompts, maxNewTokens, stopIds } = task;
  const answers = await generateBatch(engine, prompts, { rank, maxNewTokens, stopIds, sampling: GREEDY, seed: 0 });
  return answers.map((ids) => tokenizer.decode(ids, { skipSpecial: true }));
}

function answerSpan(sample: Sample): { from: number; to: number } {
  const from = sample.supervised.indexOf(1);
  // The first token is never supervised: a mask that begins at the second covers the whole text.
  if (from <= 1)
    throw new QdlError(
      "DATA_UNSUPPORTED",
      `metric: the sample at ${sample.file}:${sample.line} is plain text, expected a prompt with an answer`,
      {
        hint: "Evaluate without --metric, or on data with prompt and completion, or with chat messages.",
        details: { file: sample.file, line: sample.line },
      },
    );
  const end = sample.supervised.indexOf(0, from);
  return { from, to: end < 0 ? sample.tokens.length : end };
}
