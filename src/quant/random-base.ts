// A base of a true shape with random weights, made on the device without a checkpoint: what benchmarks train.

import type { Backend } from "../backends/backend.ts";
import { bytesOf } from "../formats/safetensors.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import { dynamicMap } from "../ops/code-books.ts";
import { QUANT_BLOCK } from "../ops/frozen-weight.ts";
import { randomStream } from "../random/philox.ts";
import { toBf16 } from "../tensor/dtype.ts";
import { assemble } from "./assemble.ts";
import type { NormSlots, ScaleSlots, Slot, WeightSlots } from "./base-layout.ts";
import { type BaseEstimateOptions, isFourBit, layoutOf } from "./estimate-base.ts";

/** Random values of one MiB, repeated: speed does not depend on them, and no second of it need be spent on drawing. */
const PATTERN_BYTES = 1 << 20;

/** The caller disposes it. Throws MEMORY_EXCEEDED. */
export function randomBase(backend: Backend, options: BaseEstimateOptions, seed: number): FrozenModel {
  const { config, format, computeDtype, doubleQuant = true } = options;
  const layout = layoutOf(options);
  const buffer = backend.alloc(layout.bytes, `random base (${format})`);
  const patterns = new Patterns(seed);
  const put = (slot: Slot, pattern: Uint8Array): void => {
    const end = slot.offset + slot.rows * slot.cols * (slot.dtype === "u8" ? 1 : slot.dtype === "bf16" ? 2 : 4);
    for (let at = slot.offset; at < end; at += pattern.length)
      backend.write(buffer, at, pattern.subarray(0, Math.min(pattern.length, end - at)));
  };
  const floats = (slot: Slot, deviation: number, mean = 0): void =>
    put(slot, patterns.floats(slot.dtype as "f32" | "bf16", deviation, mean));

  for (const map of layout.maps) put(map, bytesOf(Float32Array.from(dynamicMap())));
  floats(layout.embedding, 1);
  if (layout.positions) floats(layout.positions, 0.1);
  if (layout.head !== layout.embedding) floats(layout.head, 1 / Math.sqrt(config.hidden));
  const norm = ({ weight, bias }: NormSlots): void => {
    floats(weight, 0.1, 1);
    if (bias) floats(bias, 0.1);
  };
  norm(layout.finalNorm);
  for (const layer of layout.layers) {
    Object.values(layer.norms).forEach(norm);
    for (const { weight, bias, cols } of Object.values(layer.linears)) {
      if (bias) floats(bias, 0.1);
      fillWeight(weight, 0.5 / Math.sqrt(cols), { floats, bytes: (slot) => put(slot, patterns.bytes()) });
    }
  }
  return {
    config,
    identity: {
      name: "random",
      revision: null,
      family: config.family,
      sha256: "",
      format,
      blockSize: QUANT_BLOCK,
      doubleQuant: doubleQuant && isFourBit(format),
      templateSha256: null,
    },
    computeDtype,
    ...assemble(buffer, layout, []),
    bytes: layout.bytes,
    dispose: () => buffer.dispose(),
  };
}

interface Fill {
  floats(slot: Slot, deviation: number, mean?: number): void;
  bytes(slot: Slot): void;
}

function fillWeight(weight: WeightSlots, deviation: number, { floats, bytes }: Fill): void {
  if ("values" in weight) {
    floats(weight.values, deviation);
    return;
  }
  bytes(weight.codes);
  // A block of normal values has an absmax of about 2.4 deviations.
  fillScales(weight.scales, 2.4 * deviation, { floats, bytes });
}

function fillScales(scales: ScaleSlots, absmax: number, { floats, bytes }: Fill): void {
  if (scales.kind === "plain") {
    floats(scales.absmax, 0.1 * absmax, absmax);
    return;
  }
  bytes(scales.codes);
  floats(scales.absmax2, 0.1 * absmax, absmax);
}

class Patterns {
  readonly #normals: Float32Array;
  readonly #bytes: Uint8Array;

  constructor(seed: number) {
    const stream = randomStream(seed, "random base");
    this.#normals = Float32Array.from({ length: PATTERN_BYTES / 4 }, (_, i) => stream.normal(i));
    const words = Uint32Array.from({ length: PATTERN_BYTES / 4 }, (_, i) => stream.u32(i, 1));
    this.#bytes = new Uint8Array(words.buffer);
  }

  bytes(): Uint8Array {
    return this.#bytes;
  }

  floats(dtype: "f32" | "bf16", deviation: number, mean: number): Uint8Array {
    const values = this.#normals.map((value) => mean + deviation * value);
    return bytesOf(dtype === "f32" ? values : Uint16Array.from(values, toBf16));
  }
}
