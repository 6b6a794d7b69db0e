// The header of a GGUF file: magic, version, counts, metadata, then the tensors' names, shapes and places. It is read
// through a small window, and every count and length is held against the bytes that are left before anything of that size
// is made: a header that lies is refused, and costs no more memory than the file has bytes.

import { QdlError } from "../errors.ts";
import type { ByteSource } from "./byte-source.ts";
import {
  DEFAULT_ALIGNMENT,
  GGUF_MAGIC,
  type Metadata,
  type MetadataValue,
  type NumberArray,
  OTHER_TENSOR_TYPES,
  TENSOR_KINDS,
  TENSOR_TYPES,
  type TensorType,
  VALUE_BYTES,
  VALUE_KINDS,
  type ValueKind,
} from "./gguf-types.ts";

export interface GgufTensorInfo {
  readonly name: string;
  readonly type: TensorType;
  /** Rows first, as everywhere here: ggml's `ne` in reverse. */
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly begin: number;
  readonly bytes: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly metadata: Metadata;
  /** In the order of their data. */
  readonly tensors: readonly GgufTensorInfo[];
}

/** Longest names that ggml itself allows, and dimensions of a tensor. */
const MAX_KEY_BYTES = 65_535;
const MAX_NAME_BYTES = 1024;
const MAX_DIMS = 4;
const MAX_ALIGNMENT = 1 << 20;
/** Fewest bytes that one entry takes: key or name, then kind and value, or dimensions, type and offset. */
const MIN_ENTRY_BYTES = { metadata: 8 + 4 + 1, tensor: 8 + 4 + 8 + 4 + 8 };

/** Whether the first bytes are GGUF's. */
export async function beginsAsGguf(source: ByteSource): Promise<boolean> {
  if (source.size < 4) return false;
  const bytes = await source.read(0, 4);
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true) === GGUF_MAGIC;
}

/** Reads and checks the header. Throws GGUF_INVALID naming what, expected and got; TENSOR_DTYPE (a type that is not read). */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  const reader = new HeaderReader(source);
  const magic = await reader.number("u32", "magic");
  if (magic !== GGUF_MAGIC) throw reader.invalid("magic", '"GGUF"', `0x${magic.toString(16)}`);
  const version = await reader.number("u32", "version");
  if (version !== 2 && version !== 3) throw reader.invalid("version", "2 or 3, little-endian", version);
  const tensorCount = await reader.count("tensor count", MIN_ENTRY_BYTES.tensor);
  const metadataCount = await reader.count("metadata count", MIN_ENTRY_BYTES.metadata);
  const metadata = await readMetadata(reader, metadataCount);
  const infos: UnplacedTensor[] = [];
  const names = new Set<string>();
  for (let i = 0; i < tensorCount; i++) {
    const info = await readTensor(reader);
    if (names.has(info.name)) throw reader.invalid(`tensor ${info.name}`, "each name once", "twice");
    names.add(info.name);
    infos.push(info);
  }
  return { version, metadata, tensors: place(reader, infos, alignmentOf(reader, metadata)) };
}

async function readMetadata(reader: HeaderReader, count: number): Promise<Metadata> {
  const metadata = new Map<string, MetadataValue>();
  for (let i = 0; i < count; i++) {
    const key = await reader.string(`key ${i}`, MAX_KEY_BYTES);
    if (metadata.has(key)) throw reader.invalid(`key ${key}`, "each key once", "twice");
    const kind = await reader.kind(key);
    metadata.set(key, kind === "array" ? await readArray(reader, key) : await readScalar(reader, kind, key));
  }
  return metadata;
}

async function readScalar(reader: HeaderReader, kind: Exclude<ValueKind, "array">, key: string) {
  if (kind === "string") return reader.string(key);
  if (kind === "u64" || kind === "i64") return exact(await reader.big(kind, key));
  const value = await reader.number(kind, key);
  if (kind !== "bool") return value;
  if (value > 1) throw reader.invalid(key, "0 or 1 (a boolean)", value);
  return value === 1;
}

async function readArray(reader: HeaderReader, key: string): Promise<readonly string[] | NumberArray> {
  const kind = await reader.kind(key);
  if (kind === "array") throw reader.invalid(key, "an array of plain values", "an array of arrays");
  const length = await reader.count(`length of ${key}`, kind === "string" ? 8 : VALUE_BYTES[kind]!);
  if (kind !== "string") return reader.numbers(kind, length, key);
  const strings: string[] = [];
  for (let i = 0; i < length; i++) strings.push(await reader.string(`${key}[${i}]`));
  return strings;
}

/** A 64-bit number as a plain one, if that is exact. */
const exact = (value: bigint): number | bigint => {
  const plain = Number(value);
  return Number.isSafeInteger(plain) ? plain : value;
};

interface UnplacedTensor extends Omit<GgufTensorInfo, "begin"> {
  /** Bytes from the start of the data. */
  readonly offset: number;
}

async function readTensor(reader: HeaderReader): Promise<UnplacedTensor> {
  const name = await reader.string("tensor name", MAX_NAME_BYTES);
  const what = `tensor ${name}`;
  const dims = await reader.number("u32", `${what}: dimensions`);
  if (dims < 1 || dims > MAX_DIMS) throw reader.invalid(`${what}: dimensions`, `1 to ${MAX_DIMS}`, dims);
  const shape: number[] = [];
  for (let i = 0; i < dims; i++) shape.unshift(await reader.size(`${what}: shape`));
  const type = typeOf(reader, name, await reader.number("u32", `${what}: type`));
  const offset = await reader.size(`${what}: offset`, 0);
  const kind = TENSOR_KINDS[type];
  const values = shape.reduce((product, size) => product * size, 1);
  if (!Number.isSafeInteger(values)) throw reader.invalid(`${what}: shape`, "a size that can be", show(shape));
  if (shape.at(-1)! % kind.values !== 0)
    throw reader.invalid(`${what}: row`, `a multiple of ${kind.values} values (${type})`, shape.at(-1));
  return { name, type, shape, bytes: (values / kind.values) * kind.bytes, offset };
}

function typeOf(reader: HeaderReader, name: string, id: number): TensorType {
  const type = TENSOR_TYPES.find((known) => TENSOR_KINDS[known].id === id);
  if (type) return type;
  const other = OTHER_TENSOR_TYPES[id];
  if (other === undefined) throw reader.invalid(`tensor ${name}: type`, "a type of ggml", id);
  throw new QdlError(
    "TENSOR_DTYPE",
    `${reader.name}: tensor ${name} is ${other}, expected ${TENSOR_TYPES.join(", ")}`,
    {
      hint: "Take the model in another quantisation, such as Q4_K_M, Q8_0 or F16.",
      details: { path: reader.name, tensor: name, type: other },
    },
  );
}

function alignmentOf(reader: HeaderReader, metadata: Metadata): number {
  const value = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  const sound = typeof value === "number" && value >= 1 && value <= MAX_ALIGNMENT && Number.isInteger(Math.log2(value));
  if (sound) return value;
  throw reader.invalid("general.alignment", `a power of two up to ${MAX_ALIGNMENT}`, value);
}

/** Gives every tensor its place in the file. Throws if one is misaligned, outside the file, or over another. */
function place(reader: HeaderReader, infos: readonly UnplacedTensor[], alignment: number): GgufTensorInfo[] {
  const data = Math.ceil(reader.position / alignment) * alignment;
  const sorted = [...infos].sort((a, b) => a.offset - b.offset);
  let end = 0;
  return sorted.map(({ offset, ...info }) => {
    const what = `tensor ${info.name}: offset`;
    if (offset % alignment !== 0) throw reader.invalid(what, `a multiple of ${alignment}`, offset);
    if (offset < end) throw reader.invalid(what, `at least ${end} (the end of the tensor before it)`, offset);
    end = offset + info.bytes;
    if (data + end > reader.fileBytes)
      throw reader.invalid(
        `tensor ${info.name}`,
        `inside the file's ${reader.fileBytes} bytes`,
        `up to byte ${data + end}`,
      );
    return { ...info, begin: data + offset };
  });
}

/** Bytes read ahead at a time. */
const WINDOW_BYTES = 1 << 18;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

class HeaderReader {
  readonly #source: ByteSource;
  #window: Uint8Array = new Uint8Array(0);
  /** Where the window begins in the file. */
  #begin = 0;
  position = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  get name(): string {
    return this.#source.name;
  }
  /** Bytes of the file. */
  get fileBytes(): number {
    return this.#source.size;
  }

  async kind(key: string): Promise<ValueKind> {
    const id = await this.number("u32", `kind of ${key}`);
    const kind = VALUE_KINDS[id];
    if (kind === undefined) throw this.invalid(`kind of ${key}`, `0 to ${VALUE_KINDS.length - 1}`, id);
    return kind;
  }

  /** A count of things that take at least `bytesEach` bytes. */
  async count(what: string, bytesEach: number): Promise<number> {
    const value = await this.big("u64", what);
    const most = Math.floor((this.#source.size - this.position) / bytesEach);
    if (value > BigInt(most)) throw this.invalid(what, `at most ${most} (by the bytes that follow)`, value);
    return Number(value);
  }

  /** A number of elements or bytes that can be exact. */
  async size(what: string, least = 1): Promise<number> {
    const value = exact(await this.big("u64", what));
    if (typeof value === "number" && value >= least) return value;
    throw this.invalid(what, `a whole number from ${least}`, value);
  }

  async string(what: string, most = Number.MAX_SAFE_INTEGER): Promise<string> {
    const length = await this.count(`length of ${what}`, 1);
    if (length > most) throw this.invalid(`length of ${what}`, `at most ${most}`, length);
    const bytes = await this.#take(length, what);
    try {
      return utf8.decode(bytes);
    } catch {
      throw this.invalid(what, "UTF-8", "other bytes");
    }
  }

  async big(kind: "u64" | "i64", what: string): Promise<bigint> {
    const bytes = await this.#take(8, what);
    const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
    return kind === "u64" ? view.getBigUint64(0, true) : view.getBigInt64(0, true);
  }

  async number(kind: Exclude<ValueKind, "string" | "array" | "u64" | "i64">, what: string): Promise<number> {
    const size = VALUE_BYTES[kind]!;
    const bytes = await this.#take(size, what);
    return Number(arrayOf(kind, bytes.slice())[0]);
  }

  /** An array of numbers, as many as the file has bytes for. */
  async numbers(kind: Exclude<ValueKind, "string" | "array">, length: number, what: string): Promise<NumberArray> {
    const bytes = await this.#take(length * VALUE_BYTES[kind]!, what);
    if (kind === "bool" && bytes.some((byte) => byte > 1))
      throw this.invalid(what, "bytes 0 or 1 (booleans)", "others");
    return arrayOf(kind, bytes.slice());
  }

  invalid(what: string, expected: string, got: unknown): QdlError {
    return new QdlError("GGUF_INVALID", `${this.name}: ${what} is ${String(got).slice(0, 80)}, expected ${expected}`, {
      hint: "The file is damaged, was not downloaded completely, or is no GGUF model; fetch it again.",
      details: { path: this.name, what, expected, got: String(got).slice(0, 80), position: this.position },
    });
  }

  /** The next `length` bytes, as a view that lasts until the next call. */
  async #take(length: number, what: string): Promise<Uint8Array> {
    const left = this.#source.size - this.position;
    if (length > left) throw this.invalid(what, `${length} bytes`, `cut off: ${left} bytes are left`);
    if (this.position + length > this.#begin + this.#window.length) {
      this.#window = await this.#source.read(this.position, Math.min(left, Math.max(length, WINDOW_BYTES)));
      this.#begin = this.position;
    }
    const at = this.position - this.#begin;
    this.position += length;
    return this.#window.subarray(at, at + length);
  }
}

/** Fresh little-endian bytes as numbers. */
function arrayOf(kind: Exclude<ValueKind, "string" | "array">, bytes: Uint8Array): NumberArray {
  const { buffer } = bytes as { buffer: ArrayBuffer };
  switch (kind) {
    case "u8":
    case "bool":
      return bytes;
    case "i8":
      return new Int8Array(buffer);
    case "u16":
      return new Uint16Array(buffer);
    case "i16":
      return new Int16Array(buffer);
    case "u32":
      return new Uint32Array(buffer);
    case "i32":
      return new Int32Array(buffer);
    case "f32":
      return new Float32Array(buffer);
    case "u64":
      return new BigUint64Array(buffer);
    case "i64":
      return new BigInt64Array(buffer);
    case "f64":
      return new Float64Array(buffer);
  }
}

const show = (shape: readonly number[]): string => `[${shape.join(", ")}]`;
