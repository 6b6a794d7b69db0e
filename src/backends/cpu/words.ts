// The arguments of one call as a block of doubles, in the order in which the kernel reads them (kernels/args.h). Doubles
// hold every address and count exactly, and one block costs less than marshalling objects.

import { QdlError } from "../../errors.ts";
import type { FrozenWeight } from "../../ops/frozen-weight.ts";
import type { RankRange } from "../../ops/rank-range.ts";
import type { DType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { addressOf } from "./buffer.ts";

const DTYPE_CODES: Readonly<Record<Exclude<DType, "f64">, number>> = { f32: 0, bf16: 1, i32: 2, u8: 3 };
const FORMAT_CODES: Readonly<Record<FrozenWeight["format"], number>> = { nf4: 0, fp4: 1, bf16: 2, f32: 2, zero: 3 };

export class Words {
  #block = new Float64Array(512);
  #at = 0;

  /** The words written since `restart`. */
  get block(): Float64Array {
    return this.#block;
  }

  get length(): number {
    return this.#at;
  }

  restart(): void {
    this.#at = 0;
  }

  number(value: number): this {
    if (this.#at === this.#block.length) {
      const grown = new Float64Array(2 * this.#block.length);
      grown.set(this.#block);
      this.#block = grown;
    }
    this.#block[this.#at++] = value;
    return this;
  }

  tensor(tensor: Tensor | null): this {
    if (!tensor) return this.number(0).number(0).number(0).number(0).number(0);
    if (tensor.dtype === "f64")
      throw new QdlError(
        "OP_UNSUPPORTED",
        "cpu: a tensor is f64, expected f32 or bf16: f64 exists on the reference backend only",
      );
    return this.number(addressOf(tensor))
      .number(tensor.rows)
      .number(tensor.cols)
      .number(tensor.stride)
      .number(DTYPE_CODES[tensor.dtype]);
  }

  tensors(...tensors: readonly (Tensor | null)[]): this {
    for (const tensor of tensors) this.tensor(tensor);
    return this;
  }

  list(tensors: readonly (Tensor | null)[]): this {
    return this.number(tensors.length).tensors(...tensors);
  }

  weight(weight: FrozenWeight): this {
    this.number(FORMAT_CODES[weight.format]).number(weight.rows).number(weight.cols);
    if (weight.format === "zero") return this.tensors(null, null, null, null).number(0);
    if ("values" in weight) return this.tensors(weight.values, null, null, null).number(0);
    const { scales } = weight;
    return scales.kind === "plain"
      ? this.tensors(weight.codes, scales.absmax, null, null).number(0)
      : this.tensors(weight.codes, scales.codes, scales.absmax2, scales.map).number(scales.offset);
  }

  weights(weights: readonly FrozenWeight[]): this {
    this.number(weights.length);
    for (const weight of weights) this.weight(weight);
    return this;
  }

  /** Ranges that cover every row: rows between the given ones get rank 0. */
  ranges(ranges: readonly RankRange[], rows: number): this {
    const all: RankRange[] = [];
    let end = 0;
    for (const range of ranges) {
      if (range.from === range.to) continue;
      if (range.from > end) all.push({ from: end, to: range.from, rank: 0, scale: 0 });
      all.push(range);
      end = range.to;
    }
    if (end < rows) all.push({ from: end, to: rows, rank: 0, scale: 0 });
    this.number(all.length);
    for (const { from, to, rank, scale } of all) this.number(from).number(to).number(rank).number(scale);
    return this;
  }
}
