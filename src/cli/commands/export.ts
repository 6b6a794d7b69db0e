import { exportAdapter } from "../../verbs/export-adapter.ts";
import { defineCommand } from "../command.ts";
import { showBytes } from "../style.ts";

export const exportCommand = defineCommand({
  name: "export",
  summary: "cut an adapter to one rank or several, for the tools that will use it",
  details: `A slice is an adapter of its own: the first rows of every matrix, to the bit, with the alpha under which PEFT
computes exactly what the whole adapter computes at that rank. No base is needed. Each folder gets a model card (README.md) with
the quality at each rank and how to load it. --ranks writes one folder a rank, rank-B of OUTPUT.`,
  argument: { name: "adapter", required: true, help: "the adapter's folder" },
  options: ["rank", "ranks", "format", "dtype", "output"],
  required: ["output"],
  defaults: { ranks: null },
  examples: [
    { line: "export run --rank 8 --output run-rank-8", says: "a PEFT folder at rank 8" },
    { line: "export run --ranks 1,4,16 --dtype bf16 --output slices", says: "three of them, in bf16" },
  ],
  async run(values, context) {
    const { output, ...rest } = values;
    const exported = await exportAdapter({ ...rest, adapter: context.argument!, output: output! });
    for (const { rank, output: folder, bytes } of exported.ranks)
      context.say(`rank ${rank} written to ${folder} (${showBytes(bytes)})`);
    return exported;
  },
});
