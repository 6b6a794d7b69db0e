import { exportAdapter } from "../../verbs/export-adapter.ts";
import { defineCommand } from "../command.ts";
import { showBytes } from "../style.ts";

export const exportCommand = defineCommand({
  name: "export",
  summary: "cut an adapter to one rank, for PEFT and everything that reads PEFT",
  details: `The slice is an adapter of its own: the first rows of every matrix, to the bit, with the alpha under which PEFT
computes exactly what the whole adapter computes at that rank. No base is needed.`,
  argument: { name: "adapter", required: true, help: "the adapter's folder" },
  options: ["rank", "format", "output"],
  required: ["output"],
  examples: [{ line: "export run --rank 8 --output run-rank-8", says: "a PEFT folder at rank 8" }],
  async run(values, context) {
    const { output, ...rest } = values;
    const exported = await exportAdapter({ ...rest, adapter: context.argument!, output: output! });
    context.say(`rank ${exported.rank} written to ${exported.output} (${showBytes(exported.bytes)})`);
    return exported;
  },
});
