// A LoRA adapter as GGUF, as llama.cpp's convert_lora_to_gguf.py writes it: `<tensor of the base>.lora_a` [r, K] and
// `.lora_b` [M, r]. llama.cpp scales by alpha / r, with r read from lora_b; where it interleaves rows of q and k, so are
// those of B.

import { ggufTensorName, isInterleaved } from "./gguf-architecture.ts";
import { halvedRow } from "./gguf-rotary.ts";
import { encodeGguf, f32, type GgufTensorToWrite, type ValueToWrite } from "./gguf-write.ts";
import type { GgufShape } from "./gguf-write-model.ts";
import { encodeFloats, type OutputDType, STORED } from "./output-dtype.ts";
import type { PeftAdapter, PeftModule } from "./peft.ts";

/**
 * The bytes of the file. f32 is exact. rslora, which llama.cpp does not know, goes into alpha: α·√r / r = α/√r.
 * Throws TENSOR_NONFINITE if a value does not fit f16.
 */
export function ggufAdapter(
  adapter: Pick<PeftAdapter, "rank" | "loraAlpha" | "useRslora" | "modules">,
  name: string,
  shape: GgufShape,
  dtype: (tensor: string) => OutputDType,
): AsyncGenerator<Uint8Array> {
  const { rank, loraAlpha, useRslora, modules } = adapter;
  const metadata: (readonly [string, ValueToWrite])[] = [
    ["general.architecture", shape.name],
    ["general.type", "adapter"],
    ["adapter.type", "lora"],
    ["general.name", name],
    ["adapter.lora.alpha", f32(useRslora ? loraAlpha * Math.sqrt(rank) : loraAlpha)],
  ];
  return encodeGguf(
    metadata,
    modules.flatMap((module) => pair(module, rank, shape, dtype)),
  );
}

function pair(
  { path, in: inFeatures, out, a, bTransposed }: PeftModule,
  rank: number,
  { architecture, headDim }: GgufShape,
  dtype: (tensor: string) => OutputDType,
): GgufTensorToWrite[] {
  const base = `${ggufTensorName(path, architecture)!}.weight`;
  const rowOf = isInterleaved(path, architecture) ? (row: number) => halvedRow(row, headDim) : (row: number) => row;
  const tensor = (suffix: string, shape: number[], values: () => Promise<Float32Array>): GgufTensorToWrite => {
    const name = `${base}.${suffix}`;
    const chosen = dtype(name);
    return {
      name,
      type: STORED[chosen],
      shape,
      content: async function* () {
        yield encodeFloats(name, await values(), chosen);
      },
    };
  };
  return [
    tensor("lora_a", [rank, inFeatures], a),
    tensor("lora_b", [out, rank], async () => columns(await bTransposed(), rank, out, rowOf)),
  ];
}

/** Bᵀ [r, M] → B [M, r], its rows in the order of GGUF. */
function columns(values: Float32Array, rank: number, out: number, rowOf: (row: number) => number): Float32Array {
  const b = new Float32Array(values.length);
  for (let row = 0; row < out; row++) for (let i = 0; i < rank; i++) b[row * rank + i] = values[i * out + rowOf(row)]!;
  return b;
}
