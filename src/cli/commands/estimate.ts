import { type Estimate, estimate } from "../../verbs/estimate.ts";
import { trainValues } from "../check-settings.ts";
import { defineCommand } from "../command.ts";
import { layersText } from "../plan-text.ts";
import { type Style, showBytes, table } from "../style.ts";
import { RUN_OPTIONS } from "./shared.ts";

export const estimateCommand = defineCommand({
  name: "estimate",
  summary: "say how much memory a run will take, before anything is loaded",
  details: `Takes the settings of \`qdylora train\`. The device's numbers are the plan that training allocates, to the byte; the peak is
that of the whole process on the CPU, Node included, within 10 %. With --data the largest micro-batch is that of the data;
without, the largest that --batch and --seq allow.`,
  argument: { name: "config", required: false, help: "YAML file of settings" },
  configFile: true,
  options: [...RUN_OPTIONS, "explain"],
  required: ["model"],
  examples: [
    {
      line: "estimate --model ./llama --rank-max 64 --batch 16 --accumulation 16",
      says: "sixteen micro-batches of one sample",
    },
    { line: "estimate run.yaml --memory 8GiB --explain", says: "what is recomputed to fit 8 GiB, op by op" },
  ],
  async run(values, context) {
    const { model, ...rest } = trainValues(values);
    const result = await estimate({ ...rest, onDownload: context.onDownload, model: model! });
    const rows: [string, number][] = [
      ["base, frozen", result.baseBytes],
      ["adapter, gradients, moments", result.adapterBytes],
      ["moments in host memory (paged)", result.pagedBytes],
      ["optimizer counters", result.optimizerBytes],
      ["arena of training and evaluation", result.arenaBytes],
      ["activations in host memory (offloaded)", result.offloadedBytes],
      ["on the device together", result.totalBytes],
      ["Node, tokenizer and data", result.hostBytes],
      ["loading the base, before the arenas", result.loadingBytes],
      ["peak of the process", result.peakBytes],
    ];
    context.say(
      table(
        ["part", "memory"],
        rows.map(([name, bytes]) => [name, showBytes(bytes)]),
        context.style,
      ),
    );
    context.say(
      `\n${layersText(result.layers)}; largest micro-batch ${result.largestBatch.rows} tokens; optimizer ${result.optimizerState}`,
    );
    if (result.steps) context.say(`\n${result.steps.join("\n")}`);
    if (result.buffers) context.say(`\n${bufferTable(result.buffers, context.style)}`);
    return result;
  },
});

function bufferTable(buffers: NonNullable<Estimate["buffers"]>, style: Style): string {
  const rows = buffers.map(({ name, memory, offset, bytes }) => [
    name,
    memory === "host" ? `host ${offset}` : String(offset),
    showBytes(bytes),
  ]);
  return table(["planned buffer", "at byte", "size"], rows, style);
}
