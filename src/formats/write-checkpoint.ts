// A checkpoint → a new model folder: weights in shards with their index, the companion files, config.json last.

import type { Checkpoint } from "./checkpoint.ts";
import { COMPANION_FILES, INDEX_FILE, SINGLE_FILE } from "./checkpoint.ts";
import { type FloatDType, isFloat, toF32 } from "./float-convert.ts";
import type { Folder } from "./folder.ts";
import { encodeFloats, type OutputDType, STORED } from "./output-dtype.ts";
import { encodeSafetensors, type StoredTensor, storedBytes, type TensorToWrite } from "./safetensors.ts";
import { DTYPE_BITS } from "./safetensors-header.ts";

/** Most bytes of one weights file unless the caller says otherwise; what transformers took for long. */
export const SHARD_BYTES = 5e9;

export interface WriteCheckpointOptions {
  readonly checkpoint: Checkpoint;
  readonly output: Folder;
  /** Dtype of a tensor of floats, or null: as it is. */
  readonly dtype: (name: string) => OutputDType | null;
  readonly shardBytes?: number;
}

export interface WrittenCheckpoint {
  readonly files: readonly string[];
  /** Bytes of the weights. */
  readonly bytes: number;
}

/** Streams every tensor of the checkpoint. Throws WRITE_FAILED, TENSOR_NONFINITE (f16), and what reading throws. */
export async function writeCheckpoint(options: WriteCheckpointOptions): Promise<WrittenCheckpoint> {
  const { checkpoint, output, dtype, shardBytes = SHARD_BYTES } = options;
  const tensors = checkpoint.tensorNames.map((name) => tensorToWrite(checkpoint.tensor(name), name, dtype(name)));
  const shards = cutShards(tensors, shardBytes);
  const names = shards.map((_, i) => shardName(i, shards.length));
  for (const [i, shard] of shards.entries()) await output.write(names[i]!, encodeSafetensors(shard, { format: "pt" }));
  const bytes = tensors.reduce((sum, tensor) => sum + sizeOf(tensor), 0);
  if (shards.length > 1) await output.write(INDEX_FILE, encodeIndex(shards, names, bytes));
  const copied = await copyCompanions(checkpoint.folder, output);
  await output.write("config.json", encodeJson(configOf(checkpoint.configJson, tensors)));
  const index = shards.length > 1 ? [INDEX_FILE] : [];
  return { files: [...names, ...index, ...copied, "config.json"], bytes };
}

/** Copies what belongs to a model beside its config and weights. Returns the names. */
export async function copyCompanions(from: Folder, to: Folder): Promise<string[]> {
  const copied: string[] = [];
  for (const name of COMPANION_FILES)
    if (await from.exists(name)) {
      await to.write(name, await from.read(name));
      copied.push(name);
    }
  return copied;
}

/** Bytes read at a time: a whole number of elements of every dtype. */
const CHUNK_BYTES = 4 << 20;

function tensorToWrite(tensor: StoredTensor, name: string, dtype: OutputDType | null): TensorToWrite {
  const stored = tensor.dtype;
  const target = dtype === null || !isFloat(stored) ? stored : STORED[dtype];
  const content = async function* () {
    for (let at = 0; at < tensor.bytes; at += CHUNK_BYTES) {
      const bytes = await tensor.read(at, Math.min(CHUNK_BYTES, tensor.bytes - at));
      yield target === stored ? bytes : encodeFloats(name, toF32(stored as FloatDType, bytes), dtype!);
    }
  };
  return { name, dtype: target, shape: tensor.shape, content };
}

const sizeOf = ({ dtype, shape }: TensorToWrite): number => storedBytes(dtype, shape);

/** In the checkpoint's order, so that a source is read from front to back; within a shard wide dtypes come first. */
function cutShards(tensors: readonly TensorToWrite[], shardBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [[]];
  let room = shardBytes;
  for (const tensor of tensors) {
    const bytes = sizeOf(tensor);
    if (bytes > room && shards.at(-1)!.length > 0) {
      shards.push([]);
      room = shardBytes;
    }
    shards.at(-1)!.push(tensor);
    room -= bytes;
  }
  return shards.map((shard) => shard.sort((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype]));
}

function shardName(index: number, count: number): string {
  const digits = (n: number) => String(n).padStart(5, "0");
  return count === 1 ? SINGLE_FILE : `model-${digits(index + 1)}-of-${digits(count)}.safetensors`;
}

function encodeIndex(shards: readonly TensorToWrite[][], names: readonly string[], bytes: number): Uint8Array {
  const map = shards.flatMap((shard, i) => shard.map(({ name }): [string, string] => [name, names[i]!]));
  map.sort(([a], [b]) => (a < b ? -1 : 1));
  return encodeJson({ metadata: { total_size: bytes }, weight_map: Object.fromEntries(map) });
}

const TORCH_NAMES: Readonly<Record<string, string>> = {
  F64: "float64",
  F32: "float32",
  BF16: "bfloat16",
  F16: "float16",
};

/** The config with the dtype that most of the weights now have. */
function configOf(source: unknown, tensors: readonly TensorToWrite[]): Record<string, unknown> {
  const config = source as Record<string, unknown>;
  const bytes = new Map<string, number>();
  for (const tensor of tensors) bytes.set(tensor.dtype, (bytes.get(tensor.dtype) ?? 0) + sizeOf(tensor));
  const [most] = [...bytes].sort(([, a], [, b]) => b - a)[0] ?? ["F32"];
  return { ...config, ["torch_dtype" in config ? "torch_dtype" : "dtype"]: TORCH_NAMES[most] ?? "float32" };
}

const encodeJson = (value: unknown): Uint8Array => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
