// A slice as GGUF for llama.cpp, Ollama and LM Studio: a LoRA adapter beside a base, or merged into one model file.

import { scaleAt } from "../adapter/config.ts";
import { peftAdapter } from "../adapter/file.ts";
import { ggufAdapter } from "../formats/gguf-write-adapter.ts";
import { ggufModel, ggufShapeOf } from "../formats/gguf-write-model.ts";
import type { NodeFolder } from "../formats/node-files.ts";
import { dtypeFor } from "../formats/output-dtype.ts";
import { mergedCheckpoint } from "../quant/merged-checkpoint.ts";
import { checkBase, type MergeSettings, updateOf } from "./export-merged.ts";
import { dtypeRules, type Slice, type WrittenSlice } from "./export-slice.ts";
import { rememberedBase } from "./open-adapter.ts";
import { openDevice } from "./open-device.ts";
import { openModelFiles } from "./open-model.ts";

const ADAPTER_FILE = "adapter.gguf";
const MODEL_FILE = "model.gguf";

/** The adapter alone. The base is opened for the names and the order of rows that its file has in llama.cpp. */
export async function exportGguf(slice: Slice, folder: NodeFolder, settings: MergeSettings): Promise<WrittenSlice> {
  const { rank, weights, manifest } = slice;
  await using files = await openModelFiles(settings.model ?? rememberedBase(manifest.base), settings);
  await checkBase(slice, files, settings.forceBase ?? false);
  const shape = ggufShapeOf(files.checkpoint.configJson, files.checkpoint.name);
  const rules = dtypeRules(settings.dtype);
  const name = `${manifest.base.name} rank ${rank}`;
  const content = ggufAdapter(peftAdapter(weights, manifest), name, shape, (tensor) => dtypeFor(rules, tensor, "f32"));
  await folder.write(ADAPTER_FILE, content);
  return {
    bytes: await sizeOf(folder, ADAPTER_FILE),
    library: "gguf",
    holds: `A LoRA adapter for llama.cpp (scale ${scaleAt(manifest.adapter, rank)}), to be used with its base as GGUF. The base that it was trained on is what \`qdylora convert BASE --base-format ${manifest.base.format}\` writes; over another quantisation of the model it is used beside weights that it was not fitted to.`,
    uses: [
      {
        tool: "llama.cpp",
        language: "sh",
        code: `llama-cli -m base.gguf --lora ${ADAPTER_FILE} -p "Hello"`,
      },
      {
        tool: "Ollama",
        language: "sh",
        code: `printf 'FROM ./base.gguf\\nADAPTER ./${ADAPTER_FILE}\\n' > Modelfile\nollama create tuned -f Modelfile`,
      },
    ],
  };
}

/** The adapter in the weights of its base, as one file. */
export async function exportMergedGguf(
  slice: Slice,
  folder: NodeFolder,
  settings: MergeSettings,
): Promise<WrittenSlice> {
  const { rank, manifest } = slice;
  await using files = await openModelFiles(settings.model ?? rememberedBase(manifest.base), settings);
  await checkBase(slice, files, settings.forceBase ?? false);
  await using backend = await openDevice(settings);
  const { checkpoint, config } = files;
  const rules = dtypeRules(settings.dtype);
  const dtype = (tensor: string) => dtypeFor(rules, tensor, "f16");
  const merged = await mergedCheckpoint({
    checkpoint,
    config,
    backend,
    update: (layer, linear) => updateOf(slice, layer, linear),
    onto: settings.onto === "original" ? "original" : manifest.base,
    dtype,
  });
  try {
    const name = `${manifest.base.name} with rank ${rank}`;
    await folder.write(MODEL_FILE, await ggufModel({ checkpoint: merged, name, dtype }));
    const error = merged.roundingError();
    return {
      bytes: await sizeOf(folder, MODEL_FILE),
      error,
      library: "gguf",
      holds: `${manifest.base.name} with a LoRA adapter merged into its weights, as one file for llama.cpp.`,
      uses: [
        { tool: "llama.cpp", language: "sh", code: `llama-cli -m ${MODEL_FILE} -p "Hello"` },
        {
          tool: "Ollama",
          language: "sh",
          code: `printf 'FROM ./${MODEL_FILE}\\n' > Modelfile\nollama create tuned -f Modelfile`,
        },
        { tool: "qdylora", language: "sh", code: `npx qdylora generate --model ${MODEL_FILE} --prompt "Hello"` },
      ],
    };
  } finally {
    merged.dispose();
  }
}

async function sizeOf(folder: NodeFolder, name: string): Promise<number> {
  const file = await folder.open(name);
  await file.close();
  return file.size;
}
