// Metadata asked for by key and kind, with errors that name the key.

import { QdlError } from "../errors.ts";
import type { Metadata } from "./gguf-types.ts";

/** Reads values of one file's metadata; keys of the architecture are given without its name: "block_count". */
export class MetadataReader {
  readonly #metadata: Metadata;
  readonly #file: string;
  /** general.architecture */
  readonly architecture: string;

  constructor(metadata: Metadata, file: string) {
    this.#metadata = metadata;
    this.#file = file;
    this.architecture = this.text("general.architecture") ?? "";
    if (this.architecture === "") throw this.invalid("general.architecture", "a name");
  }

  has(key: string): boolean {
    return this.#metadata.has(key);
  }

  /** A number, or null if the key is absent. */
  number(key: string): number | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.invalid(key, "a number");
  }

  text(key: string): string | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (typeof value === "string") return value;
    throw this.invalid(key, "a text");
  }

  flag(key: string): boolean | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (typeof value === "boolean") return value;
    throw this.invalid(key, "true or false");
  }

  texts(key: string): readonly string[] | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (Array.isArray(value)) return value;
    throw this.invalid(key, "a list of texts");
  }

  numbers(key: string): ArrayLike<number> | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (ArrayBuffer.isView(value) && !(value instanceof BigUint64Array) && !(value instanceof BigInt64Array))
      return value as unknown as ArrayLike<number>;
    throw this.invalid(key, "a list of numbers");
  }

  /** A number of the architecture. */
  own(key: string): number | null {
    return this.number(`${this.architecture}.${key}`);
  }

  /** A number of the architecture that must be there. */
  need(key: string): number {
    const value = this.own(key);
    if (value === null) throw this.invalid(`${this.architecture}.${key}`, "a number");
    return value;
  }

  invalid(key: string, expected: string): QdlError {
    const value = this.#metadata.get(key);
    const got = value === undefined ? "absent" : typeof value === "object" ? "a list" : JSON.stringify(String(value));
    return new QdlError("GGUF_INVALID", `${this.#file}: ${key} is ${got}, expected ${expected}`, {
      hint: "The file was written by an old or broken converter; take another one of the model.",
      details: { path: this.#file, key },
    });
  }

  unsupported(key: string, got: unknown, supported: string): QdlError {
    return new QdlError(
      "MODEL_UNSUPPORTED",
      `${this.#file}: ${key} is ${JSON.stringify(got)}, supported: ${supported}`,
      {
        hint: "Use the model as a Hugging Face folder, or another model.",
        details: { path: this.#file, key, got },
      },
    );
  }
}
