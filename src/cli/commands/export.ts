import { exportAdapter } from "../../verbs/export-adapter.ts";
import type { MergeError } from "../../verbs/export-slice.ts";
import { defineCommand } from "../command.ts";
import { showBytes } from "../style.ts";

export const exportCommand = defineCommand({
  name: "export",
  summary: "cut an adapter to one rank or several, for the tools that will use it",
  details: `A slice is an adapter of its own: the first rows of every matrix, to the bit, with the alpha under which PEFT
computes exactly what the whole adapter computes at that rank. No base is needed. With --format merged the adapter goes into
the base's weights, and the result is a model folder of its own; how far its weights are from the exact sum is measured.
gguf is an adapter for llama.cpp, Ollama and LM Studio, merged-gguf a whole model for them; \`qdylora convert\` writes the base.
Each folder gets a model card (README.md) with the quality at each rank and how to load it. --ranks writes one folder a rank,
rank-B of OUTPUT.`,
  argument: { name: "adapter", required: true, help: "the adapter's folder" },
  options: [
    "rank",
    "ranks",
    "format",
    "dtype",
    "output",
    "model",
    "onto",
    "requantize",
    "shardSize",
    "forceBase",
    "backend",
    "threads",
    "isa",
  ],
  required: ["output"],
  defaults: { ranks: null, onto: null, requantize: null, forceBase: null, backend: null, isa: null },
  examples: [
    { line: "export run --rank 8 --output run-rank-8", says: "a PEFT folder at rank 8" },
    { line: "export run --ranks 1,4,16 --dtype bf16 --output slices", says: "three of them, in bf16" },
    {
      line: "export run --ranks 1,4,16 --format gguf --model llama.gguf --output slices",
      says: "adapters for llama.cpp; it needs the base's names",
    },
    { line: "export run --rank 8 --format merged --output merged", says: "a model that needs no adapter" },
    {
      line: "export run --rank 8 --format merged --onto original --requantize nf4 --output merged-nf4",
      says: "the same in 4 bit, from the original weights",
    },
  ],
  async run(values, context) {
    const { output, ...rest } = values;
    const exported = await exportAdapter({
      ...rest,
      onDownload: context.onDownload,
      adapter: context.argument!,
      output: output!,
    });
    for (const { rank, output: folder, bytes, error } of exported.ranks) {
      context.say(`rank ${rank} written to ${folder} (${showBytes(bytes)})`);
      if (error) context.say(errorLine(error));
    }
    return exported;
  },
});

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

function errorLine({ relative, ofUpdate }: MergeError): string {
  return `  merged linears are off by ${percent(relative)} of their norm, ${percent(ofUpdate)} of the adapter's share`;
}
