// How kernels go over matrices element by element: in packs of up to 16 bytes where every tensor is aligned for it, else
// one element at a time; a dense matrix as one long row.

import { QdlError } from "../../errors.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { addressOf } from "./buffer.ts";

const PACK_BYTES = 16;
/** Kernels count packs in 32 bits. */
const MOST_PACKS = 2 ** 32 - 1;

export interface Walk {
  /** Elements of a pack: the macro WIDTH of kernels. */
  readonly width: number;
  readonly rows: number;
  /** Packs of a row. */
  readonly packs: number;
  /** Elements between rows, of each tensor. */
  readonly strides: readonly number[];
}

/** Walks tensors of one shape together, row by row. */
export function walkRows(...tensors: readonly Tensor[]): Walk {
  const { rows, cols } = tensors[0]!;
  const width = widthFor(cols, tensors);
  return checkedWalk({ width, rows, packs: cols / width, strides: tensors.map(({ stride }) => stride) });
}

/** Walks tensors of one shape together where rows do not matter. */
export function walkElements(...tensors: readonly Tensor[]): Walk {
  const { rows, cols } = tensors[0]!;
  if (rows > 1 && tensors.some(({ stride }) => stride !== cols)) return walkRows(...tensors);
  return walkRows(...tensors.map((tensor) => ({ ...tensor, rows: 1, cols: rows * cols, stride: rows * cols })));
}

/** Elements of a pack, given how many elements (of a row, or of a part of it) must be whole packs. */
export function widthFor(cols: number, tensors: readonly Tensor[]): number {
  const width = PACK_BYTES / Math.max(...tensors.map(({ dtype }) => BYTES_PER_ELEMENT[dtype]));
  const fits = (tensor: Tensor) =>
    addressOf(tensor) % (width * BYTES_PER_ELEMENT[tensor.dtype]) === 0 &&
    (tensor.rows <= 1 || tensor.stride % width === 0);
  return cols % width === 0 && tensors.every(fits) ? width : 1;
}

function checkedWalk(walk: Walk): Walk {
  if (walk.rows * walk.packs > MOST_PACKS)
    throw new QdlError(
      "OP_UNSUPPORTED",
      `cuda: a tensor of ${walk.rows} rows of ${walk.packs} packs, expected at most ${MOST_PACKS} packs`,
    );
  return walk;
}
