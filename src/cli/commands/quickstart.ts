import { QdlError } from "../../errors.ts";
import type { ReportSample } from "../../report/report.ts";
import { QUICKSTART_OUTPUT, quickstart } from "../../verbs/quickstart.ts";
import { type Context, defineCommand } from "../command.ts";
import { onInterruption } from "../interrupt.ts";
import { Progress } from "../progress.ts";
import { type Style, showSeconds, table } from "../style.ts";
import { BACKEND_OPTIONS, scoreLine, scoreTable } from "./shared.ts";

const SHOWN_ANSWERS = 5;

export const quickstartCommand = defineCommand({
  name: "quickstart",
  summary: "see the whole story in two minutes, offline: train once, use at every rank",
  details: `Fine-tunes the small model that comes with the package, held in 4 bit, to say spelled words as phonemes: one run, one
adapter. Then measures that adapter at rank 1, 2, 4, … 32 on words it has not seen, and writes adapter and report.`,
  options: ["output", "seed", "resume", ...BACKEND_OPTIONS],
  examples: [
    { line: "quickstart", says: `writes to ./${QUICKSTART_OUTPUT}` },
    { line: "quickstart --output tour --seed 7 --json", says: "another folder and seed; the scores as JSON" },
  ],
  async run(values, context) {
    context.note("Base: a small Llama that writes English, held in 4 bit (NF4). Task: spelled words to phonemes.");
    const progress = new Progress(context.io, context.style);
    using interruption = onInterruption(context.io, (text) => progress.line(text));
    const outcome = await quickstart({
      ...values,
      signal: interruption.signal,
      onLoad: (load) => progress.onLoad(load),
      onEvent: (event) => progress.onEvent(event),
      onScore: (score) => progress.line(scoreLine(score, "error-rate")),
    }).finally(() => progress.clear());
    if (outcome === null) throw interrupted(values.output ?? QUICKSTART_OUTPUT);
    const { result, details } = outcome;
    context.say(`\n${scoreTable(details, context)}\n`);
    context.say(`${answers(details.samples.slice(0, SHOWN_ANSWERS), context.style)}\n`);
    context.say(`done in ${showSeconds(result.seconds)}; the report is ${result.report}\n`);
    context.say(nextSteps(result.adapter, context));
    return result;
  },
});

function answers(samples: readonly ReportSample[], style: Style): string {
  const [first] = samples;
  if (!first) return "";
  const header = ["prompt", "expected", ...first.answers.map(({ rank }) => (rank === 0 ? "base" : `rank ${rank}`))];
  const oneLine = (text: string): string => text.trim().replaceAll(/\s+/g, " ").slice(0, 36);
  const rows = samples.map(({ prompt, reference, answers }) => [
    oneLine(prompt),
    ...[reference, ...answers.map(({ text }) => text)].map(oneLine),
  ]);
  return table(header, rows, style, "left");
}

/** What to type next, ready to be pasted. */
function nextSteps(adapter: string, { style }: Context): string {
  const prompt = "$'Say w i n d o w\\nPhonemes:'";
  return [
    style.bold("Next:"),
    `  npx qdylora generate ${adapter} --rank 8 --prompt ${prompt}`,
    `  npx qdylora generate ${adapter} --rank 1 --prompt ${prompt}`,
    `  npx qdylora export ${adapter} --rank 8 --output ${adapter}-rank-8`,
    "  npx qdylora train --help",
  ].join("\n");
}

function interrupted(output: string): QdlError {
  return new QdlError("INTERRUPTED", `quickstart: stopped; the checkpoint is in ${output}`, {
    hint: "Go on with the same command and --resume.",
    details: { output },
  });
}
