import { throwProblems } from "../../verbs/problems.ts";
import { quantize } from "../../verbs/quantize.ts";
import { defineCommand } from "../command.ts";
import { showBytes } from "../style.ts";
import { BACKEND_OPTIONS } from "./shared.ts";

export const quantizeCommand = defineCommand({
  name: "quantize",
  summary: "write a model with 4-bit linears, as bitsandbytes stores them",
  details: `Linears of the blocks become NF4 or FP4 with double quantisation, one at a time; embeddings, head and norms stay as
they are. transformers, vLLM and qdylora read the result. Training does not need it: a 16-bit base is quantised when it is
loaded.`,
  argument: { name: "model", required: true, help: "a model folder or a hub id" },
  options: ["output", "baseFormat", ...BACKEND_OPTIONS],
  required: ["output"],
  examples: [{ line: "quantize ./llama --output llama-nf4", says: "an NF4 copy of a 16-bit model" }],
  async run(values, context) {
    const { output, baseFormat, ...rest } = values;
    if (baseFormat === "bf16" || baseFormat === "f32")
      throwProblems("quantize", [
        { key: "baseFormat", path: "--base-format", got: baseFormat, expected: "nf4 or fp4" },
      ]);
    const result = await quantize({
      onDownload: context.onDownload,
      ...rest,
      ...(baseFormat === "fp4" ? { baseFormat } : {}),
      model: context.argument!,
      output: output!,
    });
    context.say(`${result.output}: ${showBytes(result.sourceBytes)} of weights became ${showBytes(result.bytes)}`);
    return result;
  },
});
