// The op table: every operation of a training or decoding step, in the order in which a step uses them.

import { adamW } from "./adam-w.ts";
import { adamW8bit } from "./adam-w-8bit.ts";
import { adaptedLinears } from "./adapted-linears.ts";
import { adaptedLinearsBackward } from "./adapted-linears-backward.ts";
import { add } from "./add.ts";
import { attention } from "./attention.ts";
import { attentionBackward } from "./attention-backward.ts";
import { attentionCached } from "./attention-cached.ts";
import { awaitCopies } from "./await-copies.ts";
import { cast } from "./cast.ts";
import { dequantize } from "./dequantize.ts";
import { dropout } from "./dropout.ts";
import { embed } from "./embed.ts";
import { fill } from "./fill.ts";
import { gelu } from "./gelu.ts";
import { geluBackward } from "./gelu-backward.ts";
import { glu } from "./glu.ts";
import { gluBackward } from "./glu-backward.ts";
import { joinColumns } from "./join-columns.ts";
import { kvAppend } from "./kv-append.ts";
import { layerNorm } from "./layer-norm.ts";
import { layerNormBackward } from "./layer-norm-backward.ts";
import { linearCrossEntropy } from "./linear-cross-entropy.ts";
import { matmul } from "./matmul.ts";
import type { Op } from "./op.ts";
import { quantize4bit } from "./quantize-4bit.ts";
import { quantizeScales } from "./quantize-scales.ts";
import { rmsNorm } from "./rms-norm.ts";
import { rmsNormBackward } from "./rms-norm-backward.ts";
import { rope } from "./rope.ts";
import { ropeTable } from "./rope-table.ts";
import { splitColumns } from "./split-columns.ts";
import { startCopies } from "./start-copies.ts";
import { sumSquares } from "./sum-squares.ts";

export const OPS = {
  fill,
  cast,
  add,
  sumSquares,
  embed,
  dropout,
  rmsNorm,
  rmsNormBackward,
  layerNorm,
  layerNormBackward,
  splitColumns,
  joinColumns,
  ropeTable,
  rope,
  attention,
  attentionBackward,
  attentionCached,
  kvAppend,
  glu,
  gluBackward,
  gelu,
  geluBackward,
  matmul,
  adaptedLinears,
  adaptedLinearsBackward,
  linearCrossEntropy,
  quantize4bit,
  quantizeScales,
  dequantize,
  startCopies,
  awaitCopies,
  adamW,
  adamW8bit,
} as const;

export type OpName = keyof typeof OPS;
/** Arguments of the op `K`. */
export type ArgsOf<K extends OpName> = (typeof OPS)[K] extends Op<infer A> ? A : never;

/** The op under `name`, typed by its own arguments. */
export function opNamed<K extends OpName>(name: K): Op<ArgsOf<K>> {
  // The table maps K to Op<ArgsOf<K>> by construction; the compiler cannot follow that through an index by K.
  return OPS[name] as unknown as Op<ArgsOf<K>>;
}
