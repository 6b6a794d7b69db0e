// The kernel table: for each op, the order of its words (the order in which kernels/<op>.cc reads them) and its scratch.
// Sizes that both sides must agree on are decided here and passed along.

import { QdlError } from "../../errors.ts";
import type { Activation } from "../../ops/activation.ts";
import type { AdamWSettings } from "../../ops/adam-w-rule.ts";
import type { AttentionAttributes } from "../../ops/attention-heads.ts";
import { dropThreshold, maskHash } from "../../ops/dropout.ts";
import type { ArgsOf, OpName } from "../../ops/index.ts";
import type { RankRange } from "../../ops/rank-range.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Kernel, KernelTable } from "../backend.ts";
import { unsupported } from "../base.ts";
import type { Words } from "./words.ts";

/** Runs op `name` with the words that `write` puts down. */
export type Call = (name: OpName, write: (words: Words) => void, scratch: Tensor | null) => void;
/** The same, with the words put down now and the op run as often as the result is called. */
export type Prepare = (name: OpName, write: (words: Words) => void, scratch: Tensor | null) => () => void;

/** Elements of one partial sum of sumSquares. */
const SUM_STRETCH = 65536;
/** Logits of one chunk of the loss: 16 MiB in f32. */
const CHUNK_LOGITS = 4 << 20;
/** Rows of a chunk: enough to be worth reading and packing the head twice, at most one block of rows. */
const CHUNK_ROWS = { least: 258, most: 1026 };
/** Columns of the narrowest register tile (TILE_COLS of kernels/tile.h): the loss keeps two numbers per row and tile. */
const NARROWEST_TILE = 8;
/** The same among instruction sets with bf16 products. */
const NARROWEST_BF16_TILE = 16;
/** As in kernels/activation.h. */
const ACTIVATION_CODES: Readonly<Record<Activation, number>> = { silu: 0, "gelu-tanh": 1, "gelu-erf": 2 };
/** Scratch is aligned by the kernel. */
const ALIGNMENT = 64;
const NOWHERE_TO_COPY = "its memory is the host's, where there is nothing to be gained by copying";
/** As in kernels/attention.h. */
const LARGEST_HEAD = 512;
const QUERIES = 96;
/** Parts into which the keys of all rows of a decoding step are cut: as many as threads have use for. */
const MOST_PARTS = 64;

export function kernelTable(call: Call, prepare: Prepare, hasBf16Products: boolean): KernelTable {
  const kernel = <K extends OpName>(
    name: K,
    write: (words: Words, args: ArgsOf<K>) => void,
    scratchBytes?: (args: ArgsOf<K>) => number,
  ): Kernel<K> => ({
    run: (args, scratch) => call(name, (words) => write(words, args), scratch),
    prepare: (args, scratch) => prepare(name, (words) => write(words, args), scratch),
    ...(scratchBytes && { scratchBytes }),
  });
  /** Bytes of an element of scratch that takes part in products of tensors of these dtypes. */
  const operandBytes = (...tensors: readonly Tensor[]) =>
    hasBf16Products && tensors.every((tensor) => tensor.dtype === "bf16") ? 2 : 4;

  return {
    fill: kernel("fill", (w, { y, value }) => w.tensor(y).number(value)),
    cast: kernel("cast", (w, { x, y }) => w.tensors(x, y)),
    add: kernel("add", (w, { a, b, y }) => w.tensors(a, b, y)),
    sumSquares: kernel(
      "sumSquares",
      (w, { xs, sum }) => w.list(xs).tensor(sum).number(SUM_STRETCH),
      ({ xs }) => xs.reduce((bytes, x) => bytes + Math.ceil((x.rows * x.cols) / SUM_STRETCH) * 8, ALIGNMENT),
    ),
    embed: kernel("embed", (w, { table, tokens, y, scale }) => w.tensors(table, tokens, y).number(scale)),
    dropout: kernel("dropout", (w, { x, rows, y, p, seed, ...place }) => {
      w.tensors(x, rows, y)
        .number(dropThreshold(p))
        .number(1 / (1 - p));
      w.number(seed % WORD).number(Math.floor(seed / WORD));
      for (const word of maskHash(place)) w.number(word);
    }),
    rmsNorm: kernel("rmsNorm", (w, { x, weight, y, rstd, eps }) => w.tensors(x, weight, y, rstd).number(eps)),
    rmsNormBackward: kernel("rmsNormBackward", (w, { x, weight, rstd, dy, dx }) => w.tensors(x, weight, rstd, dy, dx)),
    layerNorm: kernel("layerNorm", (w, { x, weight, bias, y, mean, rstd, eps }) =>
      w.tensors(x, weight, bias, y, mean, rstd).number(eps),
    ),
    layerNormBackward: kernel("layerNormBackward", (w, { x, weight, mean, rstd, dy, dx }) =>
      w.tensors(x, weight, mean, rstd, dy, dx),
    ),
    splitColumns: kernel("splitColumns", (w, { x, parts, groups }) => w.tensor(x).number(groups).list(parts)),
    joinColumns: kernel("joinColumns", (w, { parts, y, groups }) => w.tensor(y).number(groups).list(parts)),
    ropeTable: kernel("ropeTable", (w, { positions, frequencies, cosSin, magnitude }) =>
      w.tensors(positions, frequencies, cosSin).number(magnitude),
    ),
    rope: kernel("rope", (w, { x, cosSin, y, headDim, direction }) =>
      w
        .tensors(x, cosSin, y)
        .number(supportedHead(headDim))
        .number(direction === "forward" ? 0 : 1),
    ),
    attention: kernel("attention", (w, { q, k, v, starts, o, lse, ...attributes }) =>
      scoring(w.tensors(q, k, v, starts, o, lse), attributes),
    ),
    attentionBackward: kernel(
      "attentionBackward",
      (w, { q, k, v, starts, o, lse, dO, dq, dk, dv, ...attributes }) =>
        scoring(w.tensors(q, k, v, starts, o, lse, dO, dq, dk, dv), attributes),
      // δ, and dq in f32 while it is added up.
      ({ lse, headDim }) => 4 * lse.rows * lse.cols * (1 + roundUp(headDim, 16)) + ALIGNMENT,
    ),
    attentionCached: kernel(
      "attentionCached",
      (w, { q, kCache, vCache, slots, lengths, o, ...attributes }) => {
        const together = headsTogether(q, kCache, attributes.headDim);
        scoring(w.tensors(q, kCache, vCache, slots, lengths, o), attributes)
          .number(together)
          .number(MOST_PARTS);
      },
      // What parts of keys amount to: for every head a row of sums and two numbers, in whole vectors; a counter of parts.
      ({ q, kCache, headDim }) => {
        const together = headsTogether(q, kCache, headDim);
        const part = together * roundUp(headDim, 32) + 2 * roundUp(together, 16);
        return MOST_PARTS * Math.ceil(q.cols / headDim / together) * (4 * part + 8) + ALIGNMENT;
      },
    ),
    kvAppend: kernel("kvAppend", (w, { x, rows, cache }) => w.tensors(x, rows, cache)),
    glu: kernel("glu", (w, { gate, up, y, activation }) => w.tensors(gate, up, y).number(ACTIVATION_CODES[activation])),
    gluBackward: kernel("gluBackward", (w, { gate, up, dy, dGate, dUp, activation }) =>
      w.tensors(gate, up, dy, dGate, dUp).number(ACTIVATION_CODES[activation]),
    ),
    gelu: kernel("gelu", (w, { x, y, form }) => w.tensors(x, y).number(ACTIVATION_CODES[`gelu-${form}`])),
    geluBackward: kernel("geluBackward", (w, { x, dy, dx, form }) =>
      w.tensors(x, dy, dx).number(ACTIVATION_CODES[`gelu-${form}`]),
    ),
    matmul: kernel("matmul", (w, { x, weight, y }) => w.tensors(x, weight, y)),
    adaptedLinears: kernel("adaptedLinears", (w, { x, weights, biases, a, b, t, y, ranges }) =>
      w.tensor(x).weights(weights).list(biases).list(a).list(b).list(t).list(y).ranges(ranges, x.rows),
    ),
    adaptedLinearsBackward: kernel(
      "adaptedLinearsBackward",
      (w, { x, weights, a, b, t, dy, dx, da, db, ranges }) =>
        w
          .tensor(x)
          .weights(weights)
          .list(a)
          .list(b)
          .list(t)
          .list(dy)
          .tensor(dx)
          .list(da)
          .list(db)
          .ranges(ranges, x.rows),
      ({ x, a, ranges }) => operandBytes(x) * gradientElements(x.rows, a, ranges) + ALIGNMENT,
    ),
    linearCrossEntropy: kernel(
      "linearCrossEntropy",
      (w, { x, weight, targets, tokenWeights, loss, dx, softCap }) =>
        w
          .tensors(x, weight, targets, tokenWeights, loss, dx)
          .number(chunkRows(x, weight))
          .number(softCap ?? 0),
      ({ x, weight, dx }) =>
        lossBytes(
          x,
          weight,
          dx !== null,
          operandBytes(x, weight),
          hasBf16Products ? NARROWEST_BF16_TILE : NARROWEST_TILE,
        ),
    ),
    quantize4bit: kernel("quantize4bit", (w, { w: weight, codes, absmax, format }) =>
      w.tensors(weight, codes, absmax).number(format === "nf4" ? 0 : 1),
    ),
    quantizeScales: kernel("quantizeScales", (w, { absmax, map, codes, absmax2, offset }) =>
      w.tensors(absmax, map, codes, absmax2, offset),
    ),
    dequantize: kernel("dequantize", (w, { weight, y }) => w.weight(weight).tensor(y)),
    startCopies: unsupported(NOWHERE_TO_COPY),
    awaitCopies: unsupported(NOWHERE_TO_COPY),
    adamW: kernel("adamW", (w, { params, gradients, ms, vs, copies, steps, squares, ...settings }) =>
      adamWSettings(w.list(params).list(gradients).list(ms).list(vs).list(copies).tensors(steps, squares), settings),
    ),
    adamW8bit: kernel("adamW8bit", (w, args) => {
      w.list(args.params)
        .list(args.gradients)
        .list(args.mCodes)
        .list(args.mAbsmax)
        .list(args.vCodes)
        .list(args.vAbsmax);
      adamWSettings(w.list(args.copies).tensors(args.mMap, args.vMap, args.steps, args.squares), args);
    }),
  };
}

function adamWSettings(words: Words, settings: AdamWSettings): void {
  const { from, to, learningRates, beta1, beta2, epsilon, weightDecay, maxNorm } = settings;
  for (const value of [from, to, beta1, beta2, epsilon, weightDecay, maxNorm, ...learningRates]) words.number(value);
}

/** Words of a 64-bit seed. */
const WORD = 2 ** 32;

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;

function chunkRows(x: Tensor, weight: Tensor): number {
  const rows = Math.floor(CHUNK_LOGITS / Math.max(1, weight.rows));
  return Math.max(1, Math.min(x.rows, CHUNK_ROWS.most, Math.max(CHUNK_ROWS.least, rows)));
}

/** Supervised rows; x, target logits and parts of the softmax for one chunk; with dx, p and dx for it. As in the kernel. */
function lossBytes(x: Tensor, weight: Tensor, hasGradient: boolean, operandBytes: number, tile: number): number {
  const rows = chunkRows(x, weight);
  const inputs = rows * roundUp(x.cols, 16);
  const parts = rows * Math.ceil(weight.rows / tile);
  const pieces = [4 * x.rows, operandBytes * inputs, 4 * rows, 4 * parts, 4 * parts];
  if (hasGradient) pieces.push(operandBytes * rows * roundUp(weight.rows, 16), 4 * inputs);
  return pieces.reduce((sum, bytes) => sum + roundUp(bytes, ALIGNMENT), ALIGNMENT);
}

/** g of every linear, then gᵀ and tᵀ of every linear for one range at a time; rows are padded as in the kernel. */
function gradientElements(rows: number, a: readonly (Tensor | null)[], ranges: readonly RankRange[]): number {
  const rank = Math.max(0, ...ranges.map((range) => range.rank));
  const longest = Math.max(0, ...ranges.map((range) => range.to - range.from));
  const adapters = a.filter((entry) => entry !== null).length;
  return adapters * (rows * roundUp(rank, 32) + 2 * rank * roundUp(longest, 32));
}

/** No window and no soft cap are 0. */
const scoring = (w: Words, { headDim, scale, window, softCap }: AttentionAttributes): Words =>
  w
    .number(supportedHead(headDim))
    .number(scale)
    .number(window ?? 0)
    .number(softCap ?? 0);

/** Heads of a decoding row that are one item: groups that share keys, or as much of one as there is room for. */
function headsTogether(q: Tensor, cache: Tensor, headDim: number): number {
  const share = q.cols / cache.cols;
  return Math.min(q.cols / headDim, share > QUERIES ? QUERIES : Math.floor(QUERIES / share) * share);
}

function supportedHead(headDim: number): number {
  if (headDim > LARGEST_HEAD)
    throw new QdlError("OP_UNSUPPORTED", `cpu: attention with head dim ${headDim}, expected at most ${LARGEST_HEAD}`);
  return headDim;
}
