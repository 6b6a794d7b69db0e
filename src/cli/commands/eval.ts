import { evaluate } from "../../verbs/evaluate.ts";
import { defineCommand } from "../command.ts";
import { ADAPTER_OPTIONS, scoreLine, scoresJson, scoreTable } from "./shared.ts";

export const evalCommand = defineCommand({
  name: "eval",
  summary: "measure an adapter at any of its ranks",
  details: `Loss per supervised token, and with --metric a score of greedy answers, each with a 95 % bootstrap interval over
samples. The base alone is measured beside it. Every rank from 1 to R can be asked for, not only those that were drawn.`,
  argument: { name: "adapter", required: true, help: "the adapter's folder" },
  options: [
    "data",
    "ranks",
    "metric",
    "limit",
    "report",
    "seq",
    "overlong",
    "lossOn",
    "skipBadRows",
    "columns",
    ...ADAPTER_OPTIONS,
  ],
  required: ["data"],
  defaults: { ranks: null, seq: null, limit: null },
  examples: [
    { line: "eval run --data test.jsonl", says: "at the ranks it was trained for" },
    {
      line: "eval run --data test.jsonl --ranks 1,3,7,20 --metric error-rate --report test.html",
      says: "at ranks in between, with answers",
    },
  ],
  async run(values, context) {
    const metric = values.metric === undefined || values.metric === "none" ? null : values.metric;
    const { data, ...rest } = values;
    const report = await evaluate({
      onDownload: context.onDownload,
      ...rest,
      adapter: context.argument!,
      data: data!,
      onScore: (score) => context.note(scoreLine(score, metric)),
    });
    context.say(`\n${scoreTable(report, context)}`);
    if (values.report !== undefined) context.say(`\nreport  ${values.report}`);
    return {
      adapter: context.argument,
      metricName: report.metricName,
      heldOut: report.heldOut,
      ranks: scoresJson(report),
      report: values.report ?? null,
    };
  },
});
