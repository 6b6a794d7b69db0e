// Ops on elements one by one: fill, cast, add, dropout, activations and their backwards.

import type { Activation } from "../../ops/activation.ts";
import { dropThreshold, maskHash } from "../../ops/dropout.ts";
import type { OpName } from "../../ops/index.ts";
import { BYTES_PER_ELEMENT, toBf16 } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { KernelTable } from "../backend.ts";
import type { CudaDevice, Step } from "./device.ts";
import { commonType, elementType, prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { type Walk, walkElements, walkRows } from "./walk.ts";

export const THREADS = 256;
const WORD = 2 ** 32;

/** Blocks of a grid in which each thread takes one pack. */
export const blocksOf = ({ rows, packs }: Pick<Walk, "rows" | "packs">): number => Math.ceil((rows * packs) / THREADS);

export function elementwiseKernels(device: CudaDevice) {
  /** A function of pointers and strides of tensors of one type, then rows and packs. */
  const onElements = (
    op: OpName,
    file: string,
    name: string,
    tensors: readonly Tensor[],
    macros: Readonly<Record<string, number>> = {},
  ): Step => {
    const walk = walkElements(...tensors);
    const kernel = device.function(file, name, { TYPE: commonType(op, ...tensors), WIDTH: walk.width, ...macros });
    const args = kernelArguments();
    for (const [i, tensor] of tensors.entries()) args.tensors(tensor).longs(walk.strides[i]!);
    return device.launchEarly(kernel, [blocksOf(walk)], THREADS, args.integers(walk.rows, walk.packs));
  };

  return {
    fill: prepared(device, "fill", ({ y, value }) => {
      const walk = walkElements(y);
      const kernel = device.function("fill.cu", "fill", {
        TYPE: BYTES_PER_ELEMENT[y.dtype] === 2 ? "u16" : "u32",
        WIDTH: walk.width,
      });
      const args = kernelArguments().tensors(y).longs(walk.strides[0]!).integers(walk.rows, walk.packs);
      return device.launch(kernel, [blocksOf(walk)], THREADS, args.integers(bitsOf(y, value)));
    }),
    cast: prepared(device, "cast", ({ x, y }) => {
      const walk = walkElements(x, y);
      const kernel = device.function("cast.cu", "cast", {
        X_TYPE: elementType(x),
        Y_TYPE: elementType(y),
        WIDTH: walk.width,
      });
      const args = kernelArguments().tensors(x).longs(walk.strides[0]!).tensors(y).longs(walk.strides[1]!);
      return device.launch(kernel, [blocksOf(walk)], THREADS, args.integers(walk.rows, walk.packs));
    }),
    add: prepared(device, "add", ({ a, b, y }) => onElements("add", "add.cu", "add", [a, b, y])),
    dropout: prepared(device, "dropout", ({ x, rows, y, p, seed, ...where }) => {
      const walk = walkRows(x, y);
      const kernel = device.function("dropout.cu", "dropout", { TYPE: commonType("dropout", x, y), WIDTH: walk.width });
      const args = kernelArguments().tensors(x).longs(walk.strides[0]!).tensors(y).longs(walk.strides[1]!);
      args
        .tensors(rows)
        .longs(rows.stride)
        .integers(walk.rows, walk.packs, Math.ceil(x.cols / 4));
      args.longs(dropThreshold(p)).floats(1 / (1 - p));
      args.integers(seed % WORD, Math.floor(seed / WORD), ...maskHash(where));
      return device.launch(kernel, [blocksOf(walk)], THREADS, args);
    }),
    glu: prepared(device, "glu", ({ gate, up, y, activation }) =>
      onElements("glu", "glu.cu", "glu", [gate, up, y], numberOf(activation)),
    ),
    gluBackward: prepared(device, "gluBackward", ({ gate, up, dy, dGate, dUp, activation }) =>
      onElements("gluBackward", "glu-backward.cu", "glu_backward", [gate, up, dy, dGate, dUp], numberOf(activation)),
    ),
    gelu: prepared(device, "gelu", ({ x, y, form }) =>
      onElements("gelu", "gelu.cu", "gelu", [x, y], numberOf(`gelu-${form}`)),
    ),
    geluBackward: prepared(device, "geluBackward", ({ x, dy, dx, form }) =>
      onElements("geluBackward", "gelu-backward.cu", "gelu_backward", [x, dy, dx], numberOf(`gelu-${form}`)),
    ),
  } satisfies Partial<KernelTable>;
}

/** As the prelude numbers them. */
const ACTIVATION_NUMBERS: Readonly<Record<Activation, number>> = { silu: 0, "gelu-tanh": 1, "gelu-erf": 2 };
const numberOf = (activation: Activation) => ({ ACTIVATION: ACTIVATION_NUMBERS[activation] });

/** The bits of one element, as a whole number. */
function bitsOf(y: Tensor, value: number): number {
  if (y.dtype === "i32") return value;
  if (elementType(y) === "bf16") return toBf16(value);
  return new Uint32Array(Float32Array.of(value).buffer)[0]!;
}
