// The numbers of the GGUF format: kinds of metadata values, and kinds of tensors with the size of their blocks.
// (ggml's docs/gguf.md and ggml.h.)

/** Kind of a metadata value by its number in the file. */
export const VALUE_KINDS = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;
export type ValueKind = (typeof VALUE_KINDS)[number];

/** Bytes of a value of fixed size. */
export const VALUE_BYTES: Readonly<Partial<Record<ValueKind, number>>> = {
  u8: 1,
  i8: 1,
  bool: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  u64: 8,
  i64: 8,
  f64: 8,
};

export type NumberArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** A metadata value. 64-bit numbers beyond exact doubles stay bigint; arrays of booleans are bytes 0 and 1. */
export type MetadataValue = number | bigint | boolean | string | readonly string[] | NumberArray;
export type Metadata = ReadonlyMap<string, MetadataValue>;

interface TensorKind {
  /** ggml's number of the type. */
  readonly id: number;
  /** Values of one block, and the bytes they take. */
  readonly values: number;
  readonly bytes: number;
}

/** The tensor types that are read. */
export const TENSOR_KINDS = {
  F32: { id: 0, values: 1, bytes: 4 },
  F16: { id: 1, values: 1, bytes: 2 },
  Q4_0: { id: 2, values: 32, bytes: 18 },
  Q4_1: { id: 3, values: 32, bytes: 20 },
  Q5_0: { id: 6, values: 32, bytes: 22 },
  Q5_1: { id: 7, values: 32, bytes: 24 },
  Q8_0: { id: 8, values: 32, bytes: 34 },
  Q2_K: { id: 10, values: 256, bytes: 84 },
  Q3_K: { id: 11, values: 256, bytes: 110 },
  Q4_K: { id: 12, values: 256, bytes: 144 },
  Q5_K: { id: 13, values: 256, bytes: 176 },
  Q6_K: { id: 14, values: 256, bytes: 210 },
  IQ4_NL: { id: 20, values: 32, bytes: 18 },
  BF16: { id: 30, values: 1, bytes: 2 },
} as const satisfies Record<string, TensorKind>;

export type TensorType = keyof typeof TENSOR_KINDS;
export const TENSOR_TYPES = Object.keys(TENSOR_KINDS) as readonly TensorType[];

/** Names of types that exist but are not read, for messages. */
export const OTHER_TENSOR_TYPES: Readonly<Record<number, string>> = {
  9: "Q8_1",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

/** Types that are plain floats; every other one is blocks of codes with scales. */
export type PlainType = "F32" | "F16" | "BF16";
export const isPlain = (type: TensorType): type is PlainType => type === "F32" || type === "F16" || type === "BF16";

/** "GGUF" read as a little-endian u32. */
export const GGUF_MAGIC = 0x46554747;
export const GGUF_VERSION = 3;
export const DEFAULT_ALIGNMENT = 32;
