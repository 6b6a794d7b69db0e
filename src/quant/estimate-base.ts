// Device bytes of a frozen base, from its config alone.

import type { ModelConfig } from "../model/config.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import { phantomBuffer } from "../model/phantom.ts";
import { type BaseFormat, QUANT_BLOCK } from "../ops/frozen-weight.ts";
import { assemble } from "./assemble.ts";
import { type BaseLayout, layOutBase } from "./base-layout.ts";

export interface BaseEstimateOptions {
  readonly config: ModelConfig;
  readonly format: BaseFormat;
  /** Default true; only 4-bit formats have scales to quantise. */
  readonly doubleQuant?: boolean;
  readonly computeDtype: "bf16" | "f32";
}

/** Bytes that `loadBase` will hold for this base: exactly `FrozenModel.bytes` (of a checkpoint that is not yet 4-bit). */
export function estimateBaseBytes(options: BaseEstimateOptions): number {
  return layoutOf(options).bytes;
}

/** A base that has shapes and no memory, to plan with before anything is loaded. */
export function phantomBase(options: BaseEstimateOptions): FrozenModel {
  const { config, format, computeDtype, doubleQuant = true } = options;
  const layout = layoutOf(options);
  return {
    config,
    identity: {
      name: "estimate",
      revision: null,
      family: config.family,
      sha256: "",
      format,
      blockSize: QUANT_BLOCK,
      doubleQuant: doubleQuant && isFourBit(format),
      templateSha256: null,
    },
    computeDtype,
    ...assemble(phantomBuffer("estimate"), layout, []),
    bytes: layout.bytes,
    dispose: () => {},
  };
}

/** Where everything of such a base lies. */
export function layoutOf({ config, format, doubleQuant = true, computeDtype }: BaseEstimateOptions): BaseLayout {
  const double = doubleQuant && isFourBit(format);
  return layOutBase({
    config,
    computeDtype,
    embeddingDtype: embeddingDtypeOf(format),
    maps: double ? 1 : 0,
    storage: () => ({ format, map: double ? 0 : null }),
  });
}

export const isFourBit = (format: BaseFormat): format is "nf4" | "fp4" => format === "nf4" || format === "fp4";

/** Embeddings and head stay in 16 bit, unless the whole base is f32. */
export const embeddingDtypeOf = (format: BaseFormat): "bf16" | "f32" => (format === "f32" ? "f32" : "bf16");
