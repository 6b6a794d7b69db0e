// safetensors files, streamed: opening reads the header only, a tensor's bytes are read when asked for, and writing never
// holds more than the chunk in hand. Equal input gives equal bytes.

import { QdlError } from "../errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { DTYPE_BITS, type HeaderEntry, readHeader, type StoredDType } from "./safetensors-header.ts";

export type { StoredDType } from "./safetensors-header.ts";

export interface StoredTensor {
  readonly name: string;
  /** For messages: the file it lies in. */
  readonly file: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly bytes: number;
  /** Raw little-endian bytes offset..offset+length−1 of the tensor; all of it by default. `into`: as `ByteSource.read`. */
  read(offset?: number, length?: number, into?: Uint8Array): Promise<Uint8Array>;
}

export interface SafetensorsFile {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of their data. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /** Throws TENSOR_MISSING. */
  tensor(name: string): StoredTensor;
  close(): Promise<void>;
}

/** Opens a file over `source`, which it then owns. Throws SAFETENSORS_INVALID, FILE_UNREADABLE. */
export async function openSafetensors(source: ByteSource): Promise<SafetensorsFile> {
  const header = await readHeader(source).catch(async (error) => {
    await source.close();
    throw error;
  });
  const tensors = new Map(header.entries.map((entry) => [entry.name, storedTensor(source, entry)]));
  return {
    metadata: header.metadata,
    names: [...tensors.keys()],
    has: (name) => tensors.has(name),
    tensor: (name) => {
      const tensor = tensors.get(name);
      if (tensor) return tensor;
      throw new QdlError("TENSOR_MISSING", `${source.name}: tensor "${name}" is not in the file`, {
        details: { path: source.name, tensor: name },
      });
    },
    close: () => source.close(),
  };
}

function storedTensor(source: ByteSource, entry: HeaderEntry): StoredTensor {
  const { name, dtype, shape, begin, bytes } = entry;
  return {
    name,
    file: source.name,
    dtype,
    shape,
    bytes,
    read: async (offset = 0, length = bytes - offset, into) => {
      if (offset < 0 || length < 0 || offset + length > bytes)
        throw new QdlError(
          "OP_ARGUMENT",
          `${name}: bytes ${offset}..${offset + length} were asked for, it has ${bytes}`,
        );
      return source.read(begin + offset, length, into);
    },
  };
}

/** Chunks of bytes, or a function that makes them when the tensor's turn comes. */
export type TensorContent = Uint8Array | (() => AsyncIterable<Uint8Array> | Iterable<Uint8Array>);

export interface TensorToWrite {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly content: TensorContent;
}

/**
 * The bytes of a file with these tensors, in this order; give the result to `Folder.write`. The data begin at a multiple
 * of 8 bytes. Readers map tensors in place, so each must begin at a multiple of its element size: put wide dtypes first.
 * Throws OP_ARGUMENT for a name used twice, a misaligned tensor, or content of another size than dtype × shape.
 */
export async function* encodeSafetensors(
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = {},
): AsyncGenerator<Uint8Array> {
  yield encodeHeader(tensors, metadata);
  for (const tensor of tensors) yield* checkedContent(tensor);
}

/** Bytes of a dense tensor. */
export function storedBytes(dtype: StoredDType, shape: readonly number[]): number {
  return Math.ceil(shape.reduce((product, size) => product * size, DTYPE_BITS[dtype]) / 8);
}

/** A typed array as the bytes it lies in. */
export function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function encodeHeader(tensors: readonly TensorToWrite[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const header: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0)
    header.push(["__metadata__", Object.fromEntries(Object.entries(metadata).sort(byKey))]);
  let end = 0;
  for (const { name, dtype, shape } of tensors) {
    const begin = end;
    end += storedBytes(dtype, shape);
    if ((begin * 8) % DTYPE_BITS[dtype] !== 0) throw misuse(name, `a place aligned to ${dtype}`, `byte ${begin}`);
    header.push([name, { dtype, shape, data_offsets: [begin, end] }]);
  }
  const names = new Set<string>();
  for (const [name] of header) {
    if (names.has(name)) throw misuse(name, "each name once", "twice");
    names.add(name);
  }
  // Written pair by pair: an object would move names that look like numbers to the front.
  const text = `{${header.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(",")}}`;
  const json = new TextEncoder().encode(text);
  const padded = Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(8 + padded).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(json, 8);
  return bytes;
}

async function* checkedContent({ name, dtype, shape, content }: TensorToWrite): AsyncGenerator<Uint8Array> {
  const expected = storedBytes(dtype, shape);
  let got = 0;
  for await (const chunk of content instanceof Uint8Array ? [content] : content()) {
    got += chunk.length;
    if (got > expected) break;
    yield chunk;
  }
  if (got !== expected) throw misuse(name, `${expected} bytes (${dtype} [${shape.join(", ")}])`, got);
}

const byKey = (a: [string, unknown], b: [string, unknown]): number => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0);

function misuse(name: string, expected: string, got: unknown): QdlError {
  return new QdlError("OP_ARGUMENT", `safetensors: tensor "${name}" has ${String(got)}, expected ${expected}`, {
    details: { tensor: name, expected, got },
  });
}
