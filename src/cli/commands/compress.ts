import { type Compressed, compress } from "../../verbs/compress.ts";
import { type Context, defineCommand } from "../command.ts";
import { table } from "../style.ts";
import { DEVICE_OPTIONS } from "./shared.ts";

export const compressCommand = defineCommand({
  name: "compress",
  summary: "sort a LoRA by singular values, so that it works at every rank",
  details: `Takes a plain LoRA as PEFT saves it, of any rank, and writes an adapter whose first b rows are the best approximation of
rank b that there is, for every b; all rows together are the LoRA itself. What each rank misses of the update is printed, and
with --data the loss at each rank. The product of the two matrices is never formed. Training at all ranks (\`qdylora train\`) gives
better small ranks than cutting a LoRA that was trained at one; this is for a LoRA that is there already.`,
  argument: { name: "adapter", required: true, help: "a PEFT folder" },
  options: [
    "model",
    "output",
    "rankMax",
    "ranks",
    "dtype",
    "data",
    "seq",
    "limit",
    "overlong",
    "lossOn",
    "skipBadRows",
    ...DEVICE_OPTIONS,
  ],
  required: ["model", "output"],
  defaults: { rankMax: null, seq: null, dtype: null },
  examples: [
    { line: "compress lora --model ./llama --output nested", says: "every rank, with what each one misses" },
    {
      line: "compress lora --model ./llama --output nested --rank-max 16 --data test.jsonl",
      says: "16 directions at most, and the loss at each rank",
    },
  ],
  async run(values, context) {
    const { model, output, ...rest } = values;
    const result = await compress({
      ...rest,
      onDownload: context.onDownload,
      adapter: context.argument!,
      model: model!,
      output: output!,
    });
    context.say(curve(result, context));
    context.say(`\nadapter  ${result.output}`);
    return result;
  },
});

function curve({ ranks, baseLoss }: Compressed, { style }: Context): string {
  const measured = baseLoss !== null;
  const header = ["rank", "update missed", ...(measured ? ["loss"] : [])];
  const base = measured ? [["base", "100.00 %", baseLoss.toFixed(4)]] : [];
  const rows = ranks.map(({ rank, missed, loss }) => [
    String(rank),
    `${(100 * missed).toFixed(2)} %`,
    ...(loss === null ? [] : [loss.toFixed(4)]),
  ]);
  return table(header, [...base, ...rows], style);
}
