// A slice merged into its base: a model folder of its own, in 16 bit or quantised again.

import { scaleAt } from "../adapter/config.ts";
import { checkFits } from "../adapter/file.ts";
import type { NodeFolder } from "../formats/node-files.ts";
import { sha256InBackground } from "../formats/node-sha256.ts";
import { dtypeFor, type OutputDType } from "../formats/output-dtype.ts";
import { writeCheckpoint } from "../formats/write-checkpoint.ts";
import { type LinearUpdate, type MergedCheckpoint, mergedCheckpoint } from "../quant/merged-checkpoint.ts";
import { quantizeCheckpoint } from "../quant/quantize-checkpoint.ts";
import { dtypeRules, type MergeError, type Slice, type SliceSettings, type WrittenSlice } from "./export-slice.ts";
import type { DownloadSettings } from "./locate-model.ts";
import { rememberedBase } from "./open-adapter.ts";
import { type DeviceSettings, openDevice } from "./open-device.ts";
import { type ModelFiles, openModelFiles } from "./open-model.ts";

export interface MergeSettings extends SliceSettings, DeviceSettings, DownloadSettings {
  /** The base. Default: the hub id that the adapter remembers, or the bundled base. */
  readonly model?: string;
  /** Merge although the adapter was trained on another base. */
  readonly forceBase?: boolean;
  /**
   * What the update is added to. trained (the default): the weights that the adapter was trained on, dequantised if they are
   * 4-bit. original: the weights as the model's files have them.
   */
  readonly onto?: "trained" | "original";
  /** Quantise the merged linears again, as bitsandbytes stores them. Default: none. */
  readonly requantize?: "none" | "nf4" | "fp4";
  /** Most bytes of one weights file. Default: 5 GB. */
  readonly shardSize?: number;
}

/** Throws ADAPTER_BASE_MISMATCH, ADAPTER_INVALID, and what opening the model and the device throws. */
export async function exportMerged(slice: Slice, folder: NodeFolder, settings: MergeSettings): Promise<WrittenSlice> {
  const { rank, manifest } = slice;
  await using files = await openModelFiles(settings.model ?? rememberedBase(manifest.base), settings);
  await checkBase(slice, files, settings.forceBase ?? false);
  await using backend = await openDevice(settings);
  const { onto = "trained", requantize = "none" } = settings;
  const rules = dtypeRules(settings.dtype);
  const { checkpoint, config } = files;
  const asStored = (stored: string): OutputDType => (stored === "F16" ? "f16" : stored === "BF16" ? "bf16" : "f32");
  const merged = await mergedCheckpoint({
    checkpoint,
    config,
    backend,
    update: (layer, linear) => updateOf(slice, layer, linear),
    onto: onto === "original" ? "original" : manifest.base,
    // What is quantised again is not rounded before.
    dtype: (name, stored) => (requantize === "none" ? dtypeFor(rules, name, asStored(stored)) : "f32"),
  });
  try {
    const { bytes, error } =
      requantize === "none"
        ? await writeDense(merged, folder, (name) => dtypeFor(rules, name, null), settings.shardSize)
        : await writeQuantised(merged, { config, backend, output: folder, format: requantize });
    const weights = onto === "original" ? "as their files have them" : `as ${manifest.base.format} holds them`;
    const how = requantize === "none" ? "rounded once" : `quantised again to ${requantize} with double quantisation`;
    const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;
    return {
      bytes,
      error,
      library: "transformers",
      holds: `${manifest.base.name} with a LoRA adapter merged into its weights, ${weights}, and ${how}: the linears are off by ${percent(error.relative)} of their norm for it, which is ${percent(error.ofUpdate)} of the adapter's share.`,
      uses: mergedUses(requantize !== "none", rank),
    };
  } finally {
    merged.dispose();
  }
}

/** Throws ADAPTER_BASE_MISMATCH unless the slice was trained on these files, or `force`. */
export async function checkBase(slice: Slice, { located, checkpoint, config, tokenizer }: ModelFiles, force: boolean) {
  const { name, revision, folder } = located;
  const sha256 = await sha256InBackground(folder, checkpoint.weightFiles, new AbortController().signal);
  const identity = { ...slice.manifest.base, name, revision, sha256, templateSha256: tokenizer.templateSha256 };
  checkFits(slice, config, identity, force);
}

/** What the slice adds to one linear, or null. */
export function updateOf({ rank, weights, manifest }: Slice, layer: number, linear: string): LinearUpdate | null {
  const a = weights.tensors.get(`layers.${layer}.${linear}.A`);
  const bTransposed = weights.tensors.get(`layers.${layer}.${linear}.B`);
  return a && bTransposed ? { rank, scale: scaleAt(manifest.adapter, rank), a, bTransposed } : null;
}

interface Written {
  readonly bytes: number;
  readonly error: MergeError;
}

async function writeDense(
  merged: MergedCheckpoint,
  output: NodeFolder,
  dtype: (name: string) => OutputDType | null,
  shardBytes?: number,
): Promise<Written> {
  const { bytes } = await writeCheckpoint({
    checkpoint: merged,
    output,
    dtype,
    ...(shardBytes === undefined ? {} : { shardBytes }),
  });
  return { bytes, error: merged.roundingError() };
}

async function writeQuantised(
  merged: MergedCheckpoint,
  options: Omit<Parameters<typeof quantizeCheckpoint>[0], "checkpoint">,
): Promise<Written> {
  const { bytes, error } = await quantizeCheckpoint({ ...options, checkpoint: merged, measureError: true });
  const update = merged.updateNorm();
  return { bytes, error: { relative: error!.relative, ofUpdate: update === 0 ? 0 : error!.norm / update } };
}

function mergedUses(fourBit: boolean, rank: number): WrittenSlice["uses"] {
  return [
    {
      tool: "transformers",
      language: "python",
      code: [
        ...(fourBit ? ["# needs bitsandbytes"] : []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
      ].join("\n"),
    },
    { tool: "vLLM", language: "sh", code: "vllm serve path/to/this/folder" },
    {
      tool: "llama.cpp",
      language: "sh",
      code: fourBit
        ? `# llama.cpp reads no bitsandbytes weights: merge in 16 bit for it\nnpx qdylora export ADAPTER --rank ${rank} --format merged --output merged-16bit`
        : [
            "python convert_hf_to_gguf.py --outfile merged.gguf path/to/this/folder",
            'llama-cli -m merged.gguf -p "Hello"',
          ].join("\n"),
    },
    {
      tool: "qdylora",
      language: "sh",
      code: 'npx qdylora generate --model path/to/this/folder --prompt "Hello"',
    },
  ];
}
