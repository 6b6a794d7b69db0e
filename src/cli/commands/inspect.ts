import { inspectionLines } from "../../data/inspect.ts";
import { type Inspection, inspect, type StoredTensorInfo } from "../../verbs/inspect.ts";
import { provenanceText, settingsText } from "../../verbs/settings-text.ts";
import { type Context, defineCommand } from "../command.ts";
import { table } from "../style.ts";

export const inspectCommand = defineCommand({
  name: "inspect",
  summary: "show what is in a model, an adapter, a safetensors file, or in data as the model sees it",
  details: `Data is shown token by token; a star marks the tokens that the loss looks at. An adapter is shown with its scores
and with how often each of its rows was expected to be trained.`,
  argument: { name: "path", required: false, help: "model folder, adapter folder or .safetensors file" },
  options: ["data", "model", "limit", "seq", "overlong", "lossOn", "skipBadRows", "columns"],
  defaults: { limit: null },
  examples: [
    { line: "inspect --data train.jsonl --model ./llama", says: "the first samples, token by token, with the mask" },
    { line: "inspect run", says: "an adapter's settings, scores and provenance" },
    { line: "inspect ./llama/model.safetensors", says: "names, dtypes and shapes" },
  ],
  async run(values, context) {
    const found = await inspect({
      ...values,
      onDownload: context.onDownload,
      ...(context.argument === undefined ? {} : { path: context.argument }),
    });
    context.say(textOf(found, context));
    return found;
  },
});

function textOf(found: Inspection, context: Context): string {
  switch (found.kind) {
    case "safetensors":
      return tensorTable(found.tensors, context);
    case "model":
      return `${modelLines(found)}\n\n${tensorTable(found.tensors, context)}`;
    case "adapter":
      return adapterText(found, context);
    case "data": {
      const { samples, rows, skippedRows, tokens, supervisedTokens, longest } = found;
      const head = `${samples} samples of ${rows} rows (${skippedRows} broken rows left out), ${tokens} tokens, ${supervisedTokens} supervised; the longest has ${longest}`;
      return [head, ...found.shown.map((sample) => `\n${inspectionLines(sample).join("\n")}`)].join("\n");
    }
  }
}

const tensorTable = (tensors: readonly StoredTensorInfo[], { style }: Context): string =>
  table(
    ["tensor", "dtype", "shape"],
    tensors.map(({ name, dtype, shape }) => [name, dtype, shape.join(" × ")]),
    style,
  );

function modelLines({ path, config, parameters, files }: Extract<Inspection, { kind: "model" }>): string {
  const heads =
    config.kvHeads === config.heads ? `${config.heads} heads` : `${config.heads} heads sharing ${config.kvHeads} keys`;
  return `${path}: ${config.architecture}, ${parameters.toLocaleString("en-US")} stored values in ${files.join(", ")}
${config.layers} layers, hidden ${config.hidden}, ${heads} of ${config.headDim}, feed-forward ${config.intermediate}, vocabulary ${config.vocabulary}, up to ${config.maxPositions} positions`;
}

function adapterText(
  { manifest, expectedUpdates }: Extract<Inspection, { kind: "adapter" }>,
  { style }: Context,
): string {
  const pairs = (rows: Record<string, string>): string =>
    Object.entries(rows)
      .map(([name, value]) => `${style.dim(name.padEnd(24))} ${value}`)
      .join("\n");
  const header = ["rank", "loss", ...(manifest.metricName ? [manifest.metricName] : [])];
  const rows = manifest.scores.map(({ rank, loss, metric }) => [
    rank === 0 ? "base" : String(rank),
    loss.toFixed(4),
    ...(metric === undefined ? [] : [metric.toFixed(4)]),
  ]);
  const updates = expectedUpdates
    ? `\n\nexpected updates of rows 1 … ${expectedUpdates.length}: ${expectedUpdates.map((n) => Math.round(n)).join(" ")}`
    : "";
  return `${pairs(settingsText(manifest))}\n\n${pairs(provenanceText(manifest))}\n\n${table(header, rows, style)}${updates}`;
}
