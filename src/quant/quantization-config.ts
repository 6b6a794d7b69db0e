// config.json's quantization_config: what of it can be read, and what we write.

import { QdlError } from "../errors.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { FourBitFormat } from "../ops/code-books.ts";

/** Throws MODEL_UNSUPPORTED if config.json tells of a quantisation other than bitsandbytes in 4 bit. */
export function checkQuantizationConfig({ configJson, name }: Pick<Checkpoint, "configJson" | "name">): void {
  const config = (configJson as { quantization_config?: unknown } | null)?.quantization_config;
  if (typeof config !== "object" || config === null) return;
  const { quant_method: method = "bitsandbytes", load_in_8bit: eightBit } = config as Record<string, unknown>;
  if (method === "bitsandbytes" && eightBit !== true) return;
  const found = method === "bitsandbytes" ? "bitsandbytes in 8 bit" : String(method);
  throw new QdlError(
    "MODEL_UNSUPPORTED",
    `${name}: quantization_config is ${found}, supported: bitsandbytes in 4 bit`,
    {
      hint: "Use the 16-bit model, or a bitsandbytes 4-bit one.",
      details: { path: name, quantization: found },
    },
  );
}

export interface QuantizationChoice {
  readonly format: FourBitFormat;
  readonly doubleQuant: boolean;
  readonly computeDtype: "bfloat16" | "float16" | "float32";
}

/**
 * quantization_config as transformers writes it for a bitsandbytes model in 4 bit, but for llm_int8_threshold: it must be
 * written 6.0, which JSON.stringify cannot, and absent it has that value.
 */
export function quantizationConfig({ format, doubleQuant, computeDtype }: QuantizationChoice): Record<string, unknown> {
  return {
    _load_in_4bit: true,
    _load_in_8bit: false,
    bnb_4bit_compute_dtype: computeDtype,
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: format,
    bnb_4bit_use_double_quant: doubleQuant,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: null,
    load_in_4bit: true,
    load_in_8bit: false,
    quant_method: "bitsandbytes",
  };
}
