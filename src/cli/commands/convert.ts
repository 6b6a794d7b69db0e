import { convert } from "../../verbs/convert.ts";
import { defineCommand } from "../command.ts";
import { showBytes } from "../style.ts";
import { BACKEND_OPTIONS } from "./shared.ts";

export const convertCommand = defineCommand({
  name: "convert",
  summary: "write a model as one GGUF file, for llama.cpp, Ollama and LM Studio",
  details: `Tokenizer and chat template go into the file. With --base-format nf4 it holds the values that a 4-bit base has, dequantised:
exactly what an adapter was trained on. Vectors are f32, matrices f16 unless --dtype says otherwise.`,
  argument: { name: "model", required: true, help: "a model folder, a .gguf file or a hub id" },
  options: ["output", "dtype", "baseFormat", ...BACKEND_OPTIONS],
  required: ["output"],
  examples: [
    { line: "convert ./llama --output llama.gguf", says: "a 16-bit GGUF of a model folder" },
    { line: "convert ./llama --base-format nf4 --output base.gguf", says: "the base of adapters, for llama.cpp" },
  ],
  async run(values, context) {
    const { output, ...rest } = values;
    const result = await convert({
      ...rest,
      onDownload: context.onDownload,
      model: context.argument!,
      output: output!,
    });
    const off = `${(100 * result.error.relative).toFixed(4)} %`;
    context.say(`${result.output}: ${showBytes(result.bytes)}; its linears are off by ${off} for being rounded`);
    return result;
  },
});
