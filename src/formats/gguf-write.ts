// Writing GGUF, version 3: the header in one piece, then the tensors as their contents come, each padded to the alignment.
// Equal input gives equal bytes.

import { QdlError } from "../errors.ts";
import {
  DEFAULT_ALIGNMENT,
  GGUF_MAGIC,
  GGUF_VERSION,
  type NumberArray,
  type PlainType,
  TENSOR_KINDS,
  VALUE_KINDS,
  type ValueKind,
} from "./gguf-types.ts";
import { bytesOf } from "./safetensors.ts";

/** A metadata value with the kind in which it is stored. Numbers are written as u32, f32 where the kind says so. */
export type ValueToWrite =
  | string
  | boolean
  | readonly string[]
  | Int32Array
  | Float32Array
  | { readonly kind: "u32" | "f32"; readonly value: number };

export interface GgufTensorToWrite {
  readonly name: string;
  readonly type: PlainType;
  /** Rows first. */
  readonly shape: readonly number[];
  readonly content: () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

export const u32 = (value: number): ValueToWrite => ({ kind: "u32", value });
export const f32 = (value: number): ValueToWrite => ({ kind: "f32", value });

/** The bytes of a file with this metadata and these tensors, in this order. Throws OP_ARGUMENT for content of another size. */
export async function* encodeGguf(
  metadata: readonly (readonly [string, ValueToWrite])[],
  tensors: readonly GgufTensorToWrite[],
): AsyncGenerator<Uint8Array> {
  const header = encodeHeader(metadata, tensors);
  yield padded(header);
  for (const tensor of tensors) yield* tensorContent(tensor);
}

const bytesIn = ({ type, shape }: GgufTensorToWrite): number =>
  shape.reduce((product, size) => product * size, TENSOR_KINDS[type].bytes);

const paddingAfter = (bytes: number): number => (DEFAULT_ALIGNMENT - (bytes % DEFAULT_ALIGNMENT)) % DEFAULT_ALIGNMENT;

function padded(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length + paddingAfter(bytes.length));
  out.set(bytes);
  return out;
}

async function* tensorContent(tensor: GgufTensorToWrite): AsyncGenerator<Uint8Array> {
  const expected = bytesIn(tensor);
  let got = 0;
  for await (const chunk of tensor.content()) {
    got += chunk.length;
    if (got > expected) break;
    yield chunk;
  }
  if (got !== expected)
    throw new QdlError("OP_ARGUMENT", `gguf: tensor "${tensor.name}" has ${got} bytes, expected ${expected}`, {
      details: { tensor: tensor.name, expected, got },
    });
  yield new Uint8Array(paddingAfter(expected));
}

function encodeHeader(
  metadata: readonly (readonly [string, ValueToWrite])[],
  tensors: readonly GgufTensorToWrite[],
): Uint8Array {
  const out = new ByteWriter();
  out.u32(GGUF_MAGIC);
  out.u32(GGUF_VERSION);
  out.u64(tensors.length);
  out.u64(metadata.length);
  for (const [key, value] of metadata) {
    out.text(key);
    writeValue(out, value);
  }
  let offset = 0;
  for (const tensor of tensors) {
    out.text(tensor.name);
    out.u32(tensor.shape.length);
    for (const size of tensor.shape.toReversed()) out.u64(size);
    out.u32(TENSOR_KINDS[tensor.type].id);
    out.u64(offset);
    const bytes = bytesIn(tensor);
    offset += bytes + paddingAfter(bytes);
  }
  return out.bytes();
}

function writeValue(out: ByteWriter, value: ValueToWrite): void {
  if (typeof value === "string") {
    out.kind("string");
    out.text(value);
  } else if (typeof value === "boolean") {
    out.kind("bool");
    out.raw(Uint8Array.of(value ? 1 : 0));
  } else if (value instanceof Int32Array || value instanceof Float32Array) {
    out.array(value instanceof Int32Array ? "i32" : "f32", value.length);
    out.raw(bytesOf(value as NumberArray));
  } else if ("kind" in value) {
    out.kind(value.kind);
    out.raw(bytesOf(value.kind === "u32" ? Uint32Array.of(value.value) : Float32Array.of(value.value)));
  } else {
    out.array("string", value.length);
    for (const text of value) out.text(text);
  }
}

const encoder = new TextEncoder();

class ByteWriter {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  raw(bytes: Uint8Array): void {
    this.#parts.push(bytes);
    this.#length += bytes.length;
  }

  u32(value: number): void {
    this.raw(bytesOf(Uint32Array.of(value)));
  }

  u64(value: number): void {
    this.raw(bytesOf(BigUint64Array.of(BigInt(value))));
  }

  text(text: string): void {
    const bytes = encoder.encode(text);
    this.u64(bytes.length);
    this.raw(bytes);
  }

  kind(kind: ValueKind): void {
    this.u32(VALUE_KINDS.indexOf(kind));
  }

  array(of: ValueKind, length: number): void {
    this.kind("array");
    this.kind(of);
    this.u64(length);
  }

  bytes(): Uint8Array {
    const out = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      out.set(part, at);
      at += part.length;
    }
    return out;
  }
}
