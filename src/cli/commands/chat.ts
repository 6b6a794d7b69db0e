import { QdlError } from "../../errors.ts";
import type { ChatMessage } from "../../tokenizer/template.ts";
import { openSpeaker, type Speaker } from "../../verbs/generate.ts";
import { type Context, defineCommand } from "../command.ts";
import { ADAPTER_OPTIONS, SAMPLING_OPTIONS } from "./shared.ts";
import { speakerOf } from "./speaker.ts";

export const chatCommand = defineCommand({
  name: "chat",
  summary: "talk to a model at a rank of your choice",
  details: `Uses the model's own chat template. A line is a message; /new starts over, /rank 4 goes on at rank 4 (0: the base
alone), an empty line or Ctrl-D ends. A model without a template is for \`qdylora generate\`. With --json, each answer is one line of JSON as it comes.`,
  argument: { name: "adapter", required: false, help: "the adapter's folder" },
  options: ["rank", "system", ...SAMPLING_OPTIONS, ...ADAPTER_OPTIONS],
  examples: [
    { line: "chat run --rank 16", says: "talk at rank 16" },
    {
      line: 'chat run --rank 4 --system "Answer in one sentence." --temperature 0.7',
      says: "with a system message, sampled",
    },
  ],
  async run(values, context) {
    await using speaker = await openSpeaker(speakerOf(values, context));
    const opening: ChatMessage[] = values.system === undefined ? [] : [{ role: "system", content: values.system }];
    let messages = [...opening];
    const ask = (): void => {
      if (context.io.inIsTerminal) context.io.err(context.style.accent(`rank ${speaker.rank} > `));
    };
    ask();
    for await (const line of context.io.lines()) {
      if (line.trim() === "") break;
      const [command, argument] = line.trim().split(/\s+/);
      if (command === "/new") messages = [...opening];
      else if (command === "/rank") changeRank(speaker, argument, context);
      else {
        messages.push({ role: "user", content: line });
        const { text } = await speaker.answer(messages, values, printer(context));
        messages.push({ role: "assistant", content: text });
        context.io.out(
          context.json ? `${JSON.stringify({ user: line, assistant: text, rank: speaker.rank })}\n` : "\n",
        );
      }
      ask();
    }
  },
});

const printer = ({ json, io }: Context): ((piece: string) => void) => (json ? () => {} : (piece) => io.out(piece));

/** A wrong rank is told and changes nothing: a conversation does not end for it. */
function changeRank(speaker: Speaker, argument: string | undefined, { io, style }: Context): void {
  try {
    speaker.setRank(argument === undefined ? Number.NaN : Number(argument));
    io.err(style.dim(`rank ${speaker.rank}\n`));
  } catch (error) {
    if (!(error instanceof QdlError)) throw error;
    io.err(`${error.message}\n`);
  }
}
