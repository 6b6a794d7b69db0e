import { QdlError } from "../../errors.ts";
import type { BaseError } from "../../quant/base-error.ts";
import { train } from "../../verbs/train.ts";
import { trainValues } from "../check-settings.ts";
import { defineCommand } from "../command.ts";
import { onInterruption } from "../interrupt.ts";
import { Progress } from "../progress.ts";
import { showSeconds } from "../style.ts";
import { RUN_OPTIONS, scoreLine, scoresJson, scoreTable } from "./shared.ts";

export const trainCommand = defineCommand({
  name: "train",
  summary: "fine-tune one adapter that works at every rank from 1 to R",
  details: `The base is held frozen in 4 bit. Each step draws a rank and trains the adapter cut to it, so that afterwards
every prefix of the adapter is an adapter. Settings come from flags, or from a YAML file with the same names
(rank-max: 32); a flag wins. The defaults are QLoRA's recipe. Paths are relative to where you are.

OUTPUT gets the adapter (a PEFT folder with qdylora.json), checkpoints, events.jsonl, report.html and report.json.
Ctrl-C stops at the next step with a checkpoint; --resume goes on to the same bits as if nothing had happened.`,
  argument: { name: "config", required: false, help: "YAML file of settings" },
  configFile: true,
  options: [
    ...RUN_OPTIONS,
    "output",
    "initAdapter",
    "metric",
    "evalEvery",
    "checkpointEvery",
    "keepCheckpoints",
    "resume",
    "allowChanged",
  ],
  required: ["model", "data", "output"],
  examples: [
    { line: "train --model ./llama --data train.jsonl --output run", says: "QLoRA's recipe at ranks 1, 2, 4, … 64" },
    { line: "train run.yaml --seed 2 --output run2", says: "the settings of a file, with two of them changed" },
    { line: "train run.yaml --resume", says: "go on after a stop, a crash or a power cut" },
    {
      line: "train --model ./llama --data chat.jsonl --output run --held-out 500 --metric exact-match",
      says: "measure answers too",
    },
    {
      line: "train --model ./llama --data train.jsonl --output run --init-adapter lora --scale alpha/R",
      says: "go on from a LoRA that PEFT saved",
    },
  ],
  async run(values, context) {
    const progress = new Progress(context.io, context.style);
    using interruption = onInterruption(context.io, (text) => progress.line(text));
    const { model, data, output, ...rest } = trainValues(values);
    const metric = values.metric === undefined || values.metric === "none" ? null : values.metric;
    const result = await train({
      ...rest,
      model: model!,
      data: data!,
      output: output!,
      signal: interruption.signal,
      onDownload: context.onDownload,
      onLoad: (load) => progress.onLoad(load),
      onBaseError: (error) => progress.line(baseErrorLine(error)),
      onEvent: (event) => progress.onEvent(event),
      onScore: (score) => progress.line(scoreLine(score, metric)),
    }).finally(() => progress.clear());
    if (result.report === null) throw interrupted(output!, result.steps);
    if (result.report.ranks.length > 0) context.say(`\n${scoreTable(result.report, context)}\n`);
    context.say(`adapter  ${result.adapter}\nreport   ${result.reportFile}\ntime     ${showSeconds(result.seconds)}`);
    const { adapter, steps, seconds, reportFile, report } = result;
    return { adapter, steps, seconds, report: reportFile, metricName: report.metricName, ranks: scoresJson(report) };
  },
});

/** What it cost to quantise a GGUF file's blocks again. */
function baseErrorLine({ relative, linears }: BaseError): string {
  const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;
  const each = linears.map(({ name, relative: own }) => `${name} ${percent(own)}`).join(", ");
  return `base: off the file's weights by ${percent(relative)} of their norm (${each})`;
}

function interrupted(output: string, steps: number): QdlError {
  return new QdlError("INTERRUPTED", `train: stopped after ${steps} steps; the checkpoint is in ${output}`, {
    hint: "Go on with the same command and --resume.",
    details: { output, steps },
  });
}
