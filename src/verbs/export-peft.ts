// A slice as a folder that PEFT loads, and this package too.

import { writeAdapter } from "../adapter/file.ts";
import { PEFT_WEIGHTS } from "../formats/peft.ts";
import { dtypeRules, type SliceWriter, type WrittenSlice } from "./export-slice.ts";

export const exportPeft: SliceWriter = async ({ rank, weights, manifest }, folder, { dtype }) => {
  await writeAdapter(folder, weights, manifest, dtypeRules(dtype));
  const file = await folder.open(PEFT_WEIGHTS);
  await file.close();
  return {
    bytes: file.size,
    library: "peft",
    holds: "A LoRA adapter in the layout of PEFT.",
    uses: peftUses(manifest.base.name, rank),
  };
};

/** How to load a PEFT folder over `base`. */
export function peftUses(base: string, rank: number): WrittenSlice["uses"] {
  return [
    {
      tool: "PEFT",
      language: "python",
      code: [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        `model = AutoModelForCausalLM.from_pretrained(${JSON.stringify(base)})`,
        'model = PeftModel.from_pretrained(model, "path/to/this/folder")',
      ].join("\n"),
    },
    {
      tool: "vLLM",
      language: "sh",
      code: `vllm serve ${base} --enable-lora --max-lora-rank ${vllmRank(rank)} --lora-modules tuned=path/to/this/folder`,
    },
    {
      tool: "llama.cpp",
      language: "sh",
      code: [
        "# from llama.cpp's folder; --base is the base model's Hugging Face folder",
        "python convert_lora_to_gguf.py --base path/to/base --outfile adapter.gguf path/to/this/folder",
        'llama-cli -m base.gguf --lora adapter.gguf -p "Hello"',
      ].join("\n"),
    },
    {
      tool: "qdylora",
      language: "sh",
      code: `npx qdylora generate path/to/this/folder --model ${base} --prompt "Hello"`,
    },
  ];
}

/** vLLM takes these values of --max-lora-rank only. */
const VLLM_RANKS = [1, 8, 16, 32, 64, 128, 256, 320, 512];

const vllmRank = (rank: number): number => VLLM_RANKS.find((allowed) => allowed >= rank) ?? rank;
