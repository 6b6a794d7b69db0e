import { generate } from "../../verbs/generate.ts";
import { type Context, defineCommand } from "../command.ts";
import { ADAPTER_OPTIONS, SAMPLING_OPTIONS } from "./shared.ts";
import { speakerOf } from "./speaker.ts";

export const generateCommand = defineCommand({
  name: "generate",
  summary: "continue a prompt at a rank of your choice",
  details: `The prompt is encoded exactly as prompts are in training. Without --prompt it is read from standard input. Without
ADAPTER, or at rank 0, the base answers alone.`,
  argument: { name: "adapter", required: false, help: "the adapter's folder" },
  options: ["prompt", "rank", ...SAMPLING_OPTIONS, ...ADAPTER_OPTIONS],
  examples: [
    { line: 'generate run --rank 8 --prompt "The capital of France is"', says: "one answer at rank 8" },
    { line: "generate run --rank 2 --temperature 0.8 --seed 7 < prompt.txt", says: "a prompt from a file, sampled" },
    { line: 'generate --model ./llama --prompt "Once upon a time"', says: "the base alone" },
  ],
  async run(values, context) {
    const prompt = values.prompt ?? (await standardInput(context));
    const { prompt: _, ...rest } = values;
    const onText = context.json ? undefined : (piece: string): void => context.io.out(piece);
    const result = await generate({ ...rest, ...speakerOf(values, context), prompt, ...(onText ? { onText } : {}) });
    if (!context.json) context.io.out("\n");
    return result;
  },
});

async function standardInput({ io }: Context): Promise<string> {
  const lines: string[] = [];
  for await (const line of io.lines()) lines.push(line);
  return lines.join("\n");
}
