// The dtype in which each tensor of an export is stored.

import { QdlError } from "../errors.ts";
import { firstNonFinite, narrow, toF16Words } from "./float-convert.ts";
import { bytesOf, type StoredDType } from "./safetensors.ts";

export const OUTPUT_DTYPES = ["f32", "bf16", "f16"] as const;
export type OutputDType = (typeof OUTPUT_DTYPES)[number];

/** One dtype for all tensors, or for those whose name holds `part`; a later rule wins. */
export interface DTypeRule {
  /** "" is part of every name. */
  readonly part: string;
  readonly dtype: OutputDType;
}

export const STORED: Readonly<Record<OutputDType, Extract<StoredDType, "F32" | "BF16" | "F16">>> = {
  f32: "F32",
  bf16: "BF16",
  f16: "F16",
};

/** The dtype of tensor `name`; `otherwise` if no rule speaks of it. */
export function dtypeFor<T extends string | null>(
  rules: readonly DTypeRule[],
  name: string,
  otherwise: T,
): OutputDType | T {
  return rules.findLast(({ part }) => name.includes(part))?.dtype ?? otherwise;
}

/** f32 values as stored bytes, rounded to nearest even. Throws TENSOR_NONFINITE if a finite value does not fit f16. */
export function encodeFloats(name: string, values: Float32Array, dtype: OutputDType): Uint8Array {
  if (dtype === "f32") return bytesOf(values);
  if (dtype === "bf16") return bytesOf(narrow(values));
  const bytes = bytesOf(toF16Words(values));
  const index = firstNonFinite("F16", bytes);
  if (index < 0) return bytes;
  throw new QdlError(
    "TENSOR_NONFINITE",
    `${name} is ${values[index]} at element ${index}, expected at most 65504 in f16`,
    {
      hint: "Write this tensor in bf16 or f32: --dtype.",
      details: { tensor: name, index },
    },
  );
}
