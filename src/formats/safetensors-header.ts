// The header of a safetensors file: 8 bytes little-endian length, then JSON {name: {dtype, shape, data_offsets}}, then the
// data. Everything is checked before anything is believed: a header that lies is refused, never repaired. As the format's
// specification says, tensors cover the data completely, without holes or overlaps.

import { QdlError } from "../errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { duplicateKey } from "./json-keys.ts";

/** Bits of one element, for every dtype of the format. */
export const DTYPE_BITS = {
  F64: 64,
  I64: 64,
  U64: 64,
  C64: 64,
  F32: 32,
  I32: 32,
  U32: 32,
  F16: 16,
  BF16: 16,
  I16: 16,
  U16: 16,
  I8: 8,
  U8: 8,
  BOOL: 8,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  F4: 4,
} as const;

export type StoredDType = keyof typeof DTYPE_BITS;

export interface HeaderEntry {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly begin: number;
  readonly bytes: number;
}

export interface Header {
  /** In the order of their data. */
  readonly entries: readonly HeaderEntry[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** The format's own limit. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Reads and checks the header. Throws SAFETENSORS_INVALID naming file, tensor, expected and got. */
export async function readHeader(source: ByteSource): Promise<Header> {
  if (source.size < 8) throw invalid(source, "file", "at least 8 bytes (the header's length)", source.size);
  const length = readLength(await source.read(0, 8));
  const limit = Math.min(MAX_HEADER_BYTES, source.size - 8);
  if (length > limit)
    throw invalid(source, "header length", `at most ${limit} (the file has ${source.size} bytes)`, length);
  const headerBytes = Number(length);
  const json = parseObject(source, await source.read(8, headerBytes));
  const data = { begin: 8 + headerBytes, bytes: source.size - 8 - headerBytes };
  return { metadata: readMetadata(source, json), entries: readEntries(source, json, data) };
}

const readLength = (bytes: Uint8Array): bigint => new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);

type JsonObject = Readonly<Record<string, unknown>>;

function parseObject(source: ByteSource, bytes: Uint8Array): JsonObject {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (cause) {
    throw invalid(source, "header", "valid UTF-8 JSON", cause instanceof Error ? cause.message : cause);
  }
  if (!isObject(value)) throw invalid(source, "header", "a JSON object", JSON.stringify(value)?.slice(0, 40));
  const twice = duplicateKey(text);
  if (twice !== null) throw invalid(source, "header", "each name once", `${JSON.stringify(twice)} twice`);
  return value;
}

function readMetadata(source: ByteSource, json: JsonObject): Record<string, string> {
  const raw = Object.hasOwn(json, "__metadata__") ? json.__metadata__ : {};
  if (!isObject(raw)) throw invalid(source, "__metadata__", "an object of strings", typeof raw);
  for (const [key, value] of Object.entries(raw))
    if (typeof value !== "string") throw invalid(source, `__metadata__.${key}`, "a string", typeof value);
  return raw as Record<string, string>;
}

interface DataRange {
  readonly begin: number;
  readonly bytes: number;
}

function readEntries(source: ByteSource, json: JsonObject, data: DataRange): HeaderEntry[] {
  const names = Object.keys(json).filter((name) => name !== "__metadata__");
  const entries = names.map((name) => readEntry(source, name, json[name], data));
  entries.sort((a, b) => a.begin - b.begin || a.bytes - b.bytes);
  let end = data.begin;
  for (const entry of entries) {
    if (entry.begin !== end) {
      const what = entry.begin < end ? "an overlap with the tensor before it" : "a hole before it";
      throw invalid(source, entry.name, `data from byte ${end - data.begin}`, `${entry.begin - data.begin}: ${what}`);
    }
    end += entry.bytes;
  }
  if (end !== source.size)
    throw invalid(source, "data", `${end - data.begin} bytes (the sum of the tensors)`, `${data.bytes} bytes`);
  return entries;
}

function readEntry(source: ByteSource, name: string, value: unknown, data: DataRange): HeaderEntry {
  if (!isObject(value)) throw invalid(source, name, "an object with dtype, shape and data_offsets", typeof value);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BITS, dtype))
    throw invalid(source, `${name}.dtype`, `one of ${Object.keys(DTYPE_BITS).join(", ")}`, show(dtype));
  if (!isSizes(shape)) throw invalid(source, `${name}.shape`, "a list of whole numbers ≥ 0", show(shape));
  if (!isSizes(offsets) || offsets.length !== 2)
    throw invalid(source, `${name}.data_offsets`, "two whole numbers ≥ 0", show(offsets));
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > data.bytes)
    throw invalid(
      source,
      `${name}.data_offsets`,
      `inside the ${data.bytes} data bytes of the file`,
      `${begin}..${end}`,
    );
  const bits = countBits(shape, DTYPE_BITS[dtype as StoredDType]);
  if (bits !== (end - begin) * 8)
    throw invalid(source, name, `${bits / 8} bytes (${dtype} ${show(shape)})`, `${end - begin} bytes`);
  return { name, dtype: dtype as StoredDType, shape, begin: data.begin + begin, bytes: end - begin };
}

/** NaN where the product is beyond exact numbers, so that it equals no size. */
function countBits(shape: readonly number[], bitsPerElement: number): number {
  const bits = shape.includes(0) ? 0 : shape.reduce((product, size) => product * size, bitsPerElement);
  return Number.isSafeInteger(bits) ? bits : Number.NaN;
}

const isObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);

const show = (value: unknown): string => (JSON.stringify(value) ?? "absent").slice(0, 80);

function invalid(source: ByteSource, what: string, expected: string, got: unknown): QdlError {
  return new QdlError("SAFETENSORS_INVALID", `${source.name}: ${what} is ${String(got)}, expected ${expected}`, {
    hint: "The file is damaged or was not downloaded completely; fetch it again.",
    details: { path: source.name, what, expected, got: String(got) },
  });
}
