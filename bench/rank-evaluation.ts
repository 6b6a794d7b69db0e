// What is promised of many ranks on the CPU, one JSON line: node bench/run.mjs bench/rank-evaluation.ts [shape [seconds]].
// Loss evaluation of one batch at seven ranks in one call against seven calls of one rank, taking turns; and a prompt read by
// the decoder against the same tokens scored, taking turns. Median seconds.

import { initialWeights } from "../src/adapter/initial-weights.ts";
import { Adapter } from "../src/adapter/parameters.ts";
import { openBackend } from "../src/backends/open.ts";
import { evaluateRanks } from "../src/eval/rank-sweep.ts";
import { LossProgram, uniformRange } from "../src/model/loss-program.ts";
import type { ShapeName } from "../src/model/named-shapes.ts";
import { Engine } from "../src/serve/engine.ts";
import { checkBench, fullBatch, randomModel } from "../src/verbs/bench-settings.ts";
import { resolveTrainConfig } from "../src/verbs/train-options.ts";

const [shape = "smollm2-135m", seconds = "20"] = process.argv.slice(3);
const RANKS = [1, 2, 4, 8, 16, 32, 64];
const settings = checkBench({ shape: shape as ShapeName });

const backend = await openBackend("cpu", {});
const model = randomModel(backend, settings);
const { adapter: config } = resolveTrainConfig({ rankMax: settings.rankMax }, model.config, 1);
const adapter = new Adapter(backend, model.config, config, model.computeDtype, null);
adapter.load(initialWeights(model.config, config, 1));
const batch = fullBatch(settings.batch, settings.seq, model.config.vocabulary);
const prompt = fullBatch(1, settings.seq, model.config.vocabulary);
const rows = { N: batch.tokens.length, S: settings.batch, Q: 0 };
const scorer = LossProgram.scorer(backend, model, adapter, rows);
const engine = new Engine({ backend, model, adapter, sequences: 1, maxLength: settings.seq, maxRows: 512 });

const together = () => evaluateRanks(scorer, [batch], config, RANKS);
const oneByOne = async () => {
  for (const rank of RANKS) await evaluateRanks(scorer, [batch], config, [rank]);
};
const scored = () => scorer.run(prompt, uniformRange(prompt, settings.rankMax, 1), 0);
const prefilled = async () => {
  engine.reset(0);
  await engine.extend([{ sequence: 0, tokens: prompt.tokens, rank: settings.rankMax }]);
};

/** Median seconds of each work, one after the other in turns. */
async function inTurns(works: readonly (() => Promise<unknown>)[]): Promise<number[]> {
  const times = works.map((): number[] => []);
  for (const work of works) await work();
  const end = performance.now() + 1000 * Number(seconds);
  while (performance.now() < end)
    for (const [i, work] of works.entries()) {
      const start = performance.now();
      await work();
      times[i]!.push((performance.now() - start) / 1000);
    }
  return times.map((list) => list.sort((a, b) => a - b)[list.length >> 1]!);
}

const [sevenRanks, sumOfSeven] = await inTurns([together, oneByOne]);
const [prefill, scoring] = await inTurns([prefilled, scored]);
console.log(
  JSON.stringify({
    shape,
    tokens: batch.tokens.length,
    ranks: RANKS,
    sevenRanksSeconds: sevenRanks,
    sumOfSevenSeconds: sumOfSeven,
    evaluationRatio: sevenRanks! / sumOfSeven!,
    prompt: settings.seq,
    prefillTokensPerSecond: settings.seq / prefill!,
    scoringTokensPerSecond: settings.seq / scoring!,
    prefillRatio: scoring! / prefill!,
    device: backend.description,
  }),
);
engine[Symbol.dispose]();
for (const part of [scorer, adapter]) part[Symbol.dispose]();
model.dispose();
await backend[Symbol.asyncDispose]();
