// A GGUF file seen as the Hugging Face folder that it was made from: config.json and the tokenizer's files out of its
// metadata, weights under transformers' names and in transformers' order of rows.

import { QdlError } from "../errors.ts";
import type { ByteSource } from "./byte-source.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { toF32 } from "./float-convert.ts";
import { type GgufFile, type GgufTensor, openGguf } from "./gguf.ts";
import { GGUF_ARCHITECTURES, type GgufArchitecture, hfTensorName, isInterleaved } from "./gguf-architecture.ts";
import { configFromGguf } from "./gguf-config.ts";
import { MetadataReader } from "./gguf-metadata.ts";
import { interleavedRow, permutedRows } from "./gguf-rotary.ts";
import { shifted } from "./gguf-shift.ts";
import { tokenizerFromGguf } from "./gguf-tokenizer.ts";
import { isPlain, type Metadata, type TensorType } from "./gguf-types.ts";
import { memoryFolder } from "./memory-folder.ts";
import type { StoredTensor } from "./safetensors.ts";

/** A checkpoint that came from a GGUF file. */
export interface GgufCheckpoint extends Checkpoint {
  readonly metadata: Metadata;
  /** Types of the file's tensors by transformers' names. */
  readonly types: ReadonlyMap<string, TensorType>;
}

/** Whether some of the checkpoint's weights are blocks of codes in a GGUF file. */
export function hasBlocks(checkpoint: Checkpoint): boolean {
  const { types } = checkpoint as Partial<GgufCheckpoint>;
  return types !== undefined && [...types.values()].some((type) => !isPlain(type));
}

/**
 * Opens the model in a GGUF file, which it then owns; `fileName` is its name in its folder.
 * Throws GGUF_INVALID, TENSOR_DTYPE, MODEL_UNSUPPORTED (architecture, tensors or tokenizer), TOKENIZER_INVALID.
 */
export async function openGgufModel(source: ByteSource, fileName: string): Promise<GgufCheckpoint> {
  const file = await openGguf(source);
  try {
    return await checkpointOf(file, source.name, fileName);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function checkpointOf(file: GgufFile, path: string, fileName: string): Promise<GgufCheckpoint> {
  const read = new MetadataReader(file.metadata, path);
  checkWhole(read);
  const architecture = GGUF_ARCHITECTURES[read.architecture];
  const known = Object.keys(GGUF_ARCHITECTURES).join(", ");
  if (!architecture) throw read.unsupported("general.architecture", read.architecture, known);
  const ropeFactors = await valuesOf(file.tensors.get("rope_freqs.weight"));
  const configJson = configFromGguf(file, read, architecture, ropeFactors);
  const tensors = renamed(file, read, architecture, configJson.head_dim as number);
  const json = { "config.json": configJson, ...tokenizerFromGguf(read) };
  const files = Object.entries(json).map(([name, value]): [string, Uint8Array] => [name, encode(value)]);
  return {
    name: path,
    folder: memoryFolder(path, new Map(files)),
    configJson,
    weightFiles: [fileName],
    tensorNames: [...tensors.keys()],
    metadata: file.metadata,
    types: new Map([...tensors].map(([name, { type }]) => [name, type])),
    find: (name) => (tensors.has(name) ? name : null),
    tensor: (name) => {
      const found = tensors.get(name);
      if (found) return found.tensor;
      throw new QdlError("TENSOR_MISSING", `${path}: tensor "${name}" is not in the file`, {
        hint: "The file is incomplete, or was made for another version of llama.cpp.",
        details: { path, tensor: name },
      });
    },
    close: file.close,
  };
}

/** Refuses adapters and parts of a model. */
function checkWhole(read: MetadataReader): void {
  const type = read.text("general.type") ?? "model";
  if (type !== "model") throw read.unsupported("general.type", type, "model");
  const parts = read.number("split.count") ?? 1;
  if (parts > 1) throw read.unsupported("split.count", parts, "1 (merge the parts with llama-gguf-split --merge)");
}

async function valuesOf(tensor: GgufTensor | undefined): Promise<Float32Array | null> {
  if (!tensor) return null;
  return toF32(isPlain(tensor.type) ? tensor.type : "F32", await tensor.read());
}

interface Renamed {
  readonly tensor: StoredTensor;
  readonly type: TensorType;
}

/** Every weight under transformers' name. Throws MODEL_UNSUPPORTED for tensors that the architecture does not have. */
function renamed(
  file: GgufFile,
  read: MetadataReader,
  architecture: GgufArchitecture,
  headDim: number,
): Map<string, Renamed> {
  const tensors = new Map<string, Renamed>();
  const unknown: string[] = [];
  for (const [ggufName, stored] of file.tensors) {
    const name = hfTensorName(ggufName, architecture);
    if (name === null) unknown.push(ggufName);
    if (name === null || name === "table") continue;
    const tensor = asStoredBefore(stored, name, architecture, headDim);
    tensors.set(name, { tensor: { ...tensor, name }, type: stored.type });
  }
  if (unknown.length > 0) throw read.unsupported("tensors", unknown.slice(0, 8), `those of ${architecture.hfClass}`);
  return tensors;
}

/** The tensor with what the converter did to it undone. */
function asStoredBefore(
  stored: StoredTensor,
  name: string,
  architecture: GgufArchitecture,
  headDim: number,
): StoredTensor {
  if (isInterleaved(name, architecture)) return permutedRows(stored, headDim, interleavedRow);
  return architecture.normsPlusOne && /norm\.weight$/.test(name) ? shifted(stored, -1) : stored;
}

const encode = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value, null, 1));
