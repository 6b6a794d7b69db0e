// convert: a model as one GGUF file, with its own weights or with those that a base of another format holds.

import { basename, dirname } from "node:path";
import { QdlError } from "../errors.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { type FloatDType, narrow, toF32 } from "../formats/float-convert.ts";
import { ggufModel } from "../formats/gguf-write-model.ts";
import { fileKind, openFolder } from "../formats/node-files.ts";
import { dtypeFor } from "../formats/output-dtype.ts";
import { bytesOf, type StoredTensor } from "../formats/safetensors.ts";
import type { BaseFormat } from "../ops/frozen-weight.ts";
import { embeddingDtypeOf } from "../quant/estimate-base.ts";
import { mergedCheckpoint, type RoundingError } from "../quant/merged-checkpoint.ts";
import { dtypeRules, type SliceSettings } from "./export-slice.ts";
import type { DownloadSettings } from "./locate-model.ts";
import { type DeviceSettings, openDevice } from "./open-device.ts";
import { openModelFiles } from "./open-model.ts";

export interface ConvertOptions extends SliceSettings, DeviceSettings, DownloadSettings {
  /** A folder, a GGUF file, or a hub id. */
  readonly model: string;
  /** File to write. */
  readonly output: string;
  /** Write the values that a base of this format holds: with nf4, what an adapter was trained on. Default: as stored. */
  readonly baseFormat?: BaseFormat;
}

export interface Converted {
  readonly output: string;
  readonly bytes: number;
  /** Of the linears, by storing them in the dtype that is written. */
  readonly error: RoundingError;
}

/** Throws FILE_EXISTS, MODEL_UNSUPPORTED, TOKENIZER_INVALID, TENSOR_NONFINITE, WRITE_FAILED, and what opening the model throws. */
export async function convert(options: ConvertOptions): Promise<Converted> {
  const { output, baseFormat } = options;
  if ((await fileKind(output)) !== null)
    throw new QdlError("FILE_EXISTS", `output: ${output} is there already, expected a new file`, {
      hint: "Choose another --output.",
      details: { path: output },
    });
  await using files = await openModelFiles(options.model, options);
  await using backend = await openDevice(options);
  const { config, located } = files;
  const rules = dtypeRules(options.dtype);
  const dtype = (tensor: string) => dtypeFor(rules, tensor, "f16");
  const held = await mergedCheckpoint({
    checkpoint: baseFormat ? withEmbeddingsOf(files.checkpoint, baseFormat) : files.checkpoint,
    config,
    backend,
    update: () => null,
    onto: baseFormat ? { format: baseFormat, doubleQuant: true } : "original",
    dtype,
  });
  try {
    const folder = await openFolder(dirname(output), { write: true });
    const suffix = baseFormat ? ` (${baseFormat}, dequantised)` : "";
    await folder.write(
      basename(output),
      await ggufModel({ checkpoint: held, name: `${located.name}${suffix}`, dtype }),
    );
    const file = await folder.open(basename(output));
    await file.close();
    return { output, bytes: file.size, error: held.roundingError() };
  } finally {
    held.dispose();
  }
}

const EMBEDDINGS = /^(?:model\.embed_tokens|lm_head)\.weight$/;

/** The checkpoint with embedding and head rounded as a base of `format` holds them. */
function withEmbeddingsOf(checkpoint: Checkpoint, format: BaseFormat): Checkpoint {
  if (embeddingDtypeOf(format) === "f32") return checkpoint;
  return {
    ...checkpoint,
    tensor: (name) => {
      const tensor = checkpoint.tensor(name);
      return EMBEDDINGS.test(name) ? inBf16(tensor) : tensor;
    },
  };
}

function inBf16(tensor: StoredTensor): StoredTensor {
  if (tensor.dtype === "BF16") return tensor;
  const stored = tensor.dtype as FloatDType;
  const size = stored === "F16" ? 2 : stored === "F64" ? 8 : 4;
  const bytes = (2 * tensor.bytes) / size;
  return {
    ...tensor,
    dtype: "BF16",
    bytes,
    read: async (offset = 0, length = bytes - offset) =>
      bytesOf(narrow(toF32(stored, await tensor.read((offset * size) / 2, (length * size) / 2)))),
  };
}
