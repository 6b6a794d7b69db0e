// A GGUF file, opened: its metadata, and its tensors as floats. Plain tensors are read as they lie; blocks are decoded to
// F32 when they are asked for, as many as the bytes asked for touch, so that no tensor need ever be in memory whole.

import { QdlError } from "../errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { dequantizeBlocks } from "./gguf-blocks.ts";
import { type GgufTensorInfo, readGgufHeader } from "./gguf-header.ts";
import { isPlain, type Metadata, TENSOR_KINDS, type TensorType } from "./gguf-types.ts";
import { bytesOf, type StoredTensor } from "./safetensors.ts";

/** A tensor of a GGUF file. `dtype` is what `read` gives: F32 for blocks. */
export interface GgufTensor extends StoredTensor {
  /** As it lies in the file. */
  readonly type: TensorType;
}

export interface GgufFile {
  readonly metadata: Metadata;
  /** By the names of the file, in the order of their data. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  close(): Promise<void>;
}

/** Opens a file over `source`, which it then owns. Throws GGUF_INVALID, TENSOR_DTYPE, FILE_UNREADABLE. */
export async function openGguf(source: ByteSource): Promise<GgufFile> {
  const header = await readGgufHeader(source).catch(async (error) => {
    await source.close();
    throw error;
  });
  return {
    metadata: header.metadata,
    tensors: new Map(header.tensors.map((info) => [info.name, ggufTensor(source, info)])),
    close: () => source.close(),
  };
}

function ggufTensor(source: ByteSource, info: GgufTensorInfo): GgufTensor {
  const { name, type, shape, begin } = info;
  const values = shape.reduce((product, size) => product * size, 1);
  const bytes = isPlain(type) ? info.bytes : 4 * values;
  const read = isPlain(type) ? plainReader(source, begin) : blockReader(source, info);
  return {
    name,
    file: source.name,
    type,
    dtype: isPlain(type) ? type : "F32",
    shape,
    bytes,
    read: async (offset = 0, length = bytes - offset, into) => {
      if (offset < 0 || length < 0 || offset + length > bytes)
        throw new QdlError(
          "OP_ARGUMENT",
          `${name}: bytes ${offset}..${offset + length} were asked for, it has ${bytes}`,
        );
      return read(offset, length, into);
    },
  };
}

type Read = (offset: number, length: number, into: Uint8Array | undefined) => Promise<Uint8Array>;

const plainReader =
  (source: ByteSource, begin: number): Read =>
  (offset, length, into) =>
    source.read(begin + offset, length, into);

function blockReader(source: ByteSource, { type, begin }: GgufTensorInfo): Read {
  if (isPlain(type)) throw new TypeError("a plain tensor has no blocks");
  const kind = TENSOR_KINDS[type];
  const decodedBytes = 4 * kind.values;
  return async (offset, length, into) => {
    const first = Math.floor(offset / decodedBytes);
    const end = Math.ceil((offset + length) / decodedBytes);
    const blocks = await source.read(begin + first * kind.bytes, (end - first) * kind.bytes);
    const skipped = offset - first * decodedBytes;
    const values = floatsOver(into, skipped, (end - first) * kind.values);
    dequantizeBlocks(type, blocks, values);
    return bytesOf(values).subarray(skipped, skipped + length);
  };
}

/** `count` floats: over `into` where they fit it exactly from its first byte, else new. */
function floatsOver(into: Uint8Array | undefined, skipped: number, count: number): Float32Array {
  const fits = into !== undefined && skipped === 0 && into.byteOffset % 4 === 0 && into.length >= 4 * count;
  return fits ? new Float32Array(into.buffer, into.byteOffset, count) : new Float32Array(count);
}
