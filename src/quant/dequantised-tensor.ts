// A stored 4-bit weight as a dense tensor that is computed as it is read, on the host: for heads, which bases hold in 16 bit.

import { toF32 } from "../formats/float-convert.ts";
import { encodeFloats, type OutputDType, STORED } from "../formats/output-dtype.ts";
import { type StoredTensor, storedBytes } from "../formats/safetensors.ts";
import { DTYPE_BITS } from "../formats/safetensors-header.ts";
import { CODE_BOOKS } from "../ops/code-books.ts";
import { QUANT_BLOCK, SCALE_BLOCK } from "../ops/frozen-weight.ts";
import type { StoredFourBit, StoredScales } from "./bitsandbytes.ts";

/** [M, K], rounded to the dtype to which bitsandbytes dequantises it. */
export function dequantisedTensor(
  name: string,
  { rows, cols }: { readonly rows: number; readonly cols: number },
  weight: StoredFourBit,
): StoredTensor {
  const dtype = DTYPES[weight.dtype];
  const table = CODE_BOOKS[weight.format];
  let scales: Promise<Float32Array> | null = null;
  const read = async (offset = 0, length = storedBytes(STORED[dtype], [rows, cols]) - offset, into?: Uint8Array) => {
    scales ??= readScales(weight.scales);
    const absmax = await scales;
    const size = DTYPE_BITS[STORED[dtype]] / 8;
    const [first, count] = [offset / size, length / size];
    const firstByte = first >> 1;
    const codes = await weight.codes.read(firstByte, Math.ceil((first + count) / 2) - firstByte);
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const at = first + i;
      const byte = codes[(at >> 1) - firstByte]!;
      values[i] = table[at % 2 === 0 ? byte >> 4 : byte & 15]! * absmax[Math.floor(at / QUANT_BLOCK)]!;
    }
    const bytes = encodeFloats(name, values, dtype);
    if (!into) return bytes;
    into.set(bytes);
    return into.subarray(0, length);
  };
  const shape = [rows, cols];
  const bytes = storedBytes(STORED[dtype], shape);
  return { name, file: weight.codes.file, dtype: STORED[dtype], shape, bytes, read };
}

const DTYPES = { bfloat16: "bf16", float16: "f16", float32: "f32" } as const satisfies Record<string, OutputDType>;

/** absmax of every block, rounded after the product and after the sum: the order of bitsandbytes. */
async function readScales(scales: StoredScales): Promise<Float32Array> {
  if (scales.kind === "plain") return toF32("F32", await scales.absmax.read());
  const [codes, absmax2] = [await scales.codes.read(), toF32("F32", await scales.absmax2.read())];
  const offset = Math.fround(scales.offset);
  return Float32Array.from(
    codes,
    (code, i) => Math.fround(scales.map[code]! * absmax2[Math.floor(i / SCALE_BLOCK)]!) + offset,
  );
}
