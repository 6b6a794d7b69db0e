// adaptedLinears on cuBLASLt: each linear is ONE product [x | t]·[W | Bᵀ]ᵀ over K + b columns, rounded once. t = s·x·Aᵀ goes
// into the spare columns behind x (`xTail`; without them x is copied beside it), W is decoded into scratch with B turned
// beside it; a large one in several parts, each with columns of y of its own. All A's of the group meet x in one narrow product first.

import type { AdaptedLinearsArgs } from "../../ops/adapted-linears.ts";
import type { DenseWeight, FourBitWeight } from "../../ops/frozen-weight.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import { colSlice, rowSlice, type Tensor } from "../../tensor/tensor.ts";
import type { Wish } from "../backend.ts";
import {
  activeRanges,
  fillRows,
  paddedRank,
  placeProducts,
  stackRows,
  turnRows,
  wholeLines,
} from "./adapter-columns.ts";
import type { CudaDevice, Step } from "./device.ts";
import { commonType, inOrder } from "./kernel.ts";
import { castTo, NOTHING, type ProductOf, product } from "./products.ts";
import { decodeInto } from "./quantization.ts";
import type { Room } from "./room.ts";
import { DECODED_BYTES, type Part, rowParts, rowsOfWeight } from "./weight-parts.ts";

/** cuBLASLt reads a bias in whole words of so many bytes. */
const BIAS_ALIGNMENT = 16;

/** Room for the widest adapter behind x, where it starts as the tensor cores like it. */
export function forwardWishes({ x, a }: AdaptedLinearsArgs): readonly Wish[] {
  const rank = a.find((entry) => entry !== null)?.rows ?? 0;
  if (rank === 0 || x.cols % paddedRank(1, x.dtype) !== 0) return [];
  return [{ beside: "x", tail: "xTail", tailColumns: wholeLines(rank, x.dtype) }];
}

/** The adapters that act on a call. */
interface Active {
  /** Largest active rank. */
  readonly rank: number;
  /** Columns of each adapter in `narrow` and behind x. */
  readonly padded: number;
  /** Linears with an active adapter, in the order of the units of `narrow`. */
  readonly adapted: readonly number[];
  /** A's below one another; null where the only one is read in place. */
  readonly stack: Tensor | null;
  /** x·Aᵀ of all adapters, not scaled yet: f32 [N, adapters × padded]. */
  readonly narrow: Tensor;
  /** x and t of one adapter after the other. */
  readonly wide: Tensor;
}

interface Plan {
  /** null: no adapter acts. */
  readonly active: Active | null;
  /** Rows of each weight that are decoded at once. */
  readonly parts: readonly (readonly Part[])[];
  /** W, with B beside it where an adapter acts: one part of one weight at a time. */
  readonly weight: Tensor;
}

/** What a call takes of its scratch, of which decoded weights take `decodedBytes` at most. */
export function planForward(args: AdaptedLinearsArgs, room: Room, decodedBytes = DECODED_BYTES): Plan {
  const { x, weights, a } = args;
  const active = planActive(args, room);
  // As at the largest rank: a smaller one must do with the same scratch.
  const widest = wholeLines(x.cols + Math.max(0, ...a.map((entry) => paddedRank(entry?.rows ?? 0, x.dtype))), x.dtype);
  const rowBytes = widest * BYTES_PER_ELEMENT[x.dtype];
  const parts = weights.map((weight) => rowParts(weight, rowBytes, decodedBytes));
  const rows = Math.max(...parts.map(([first]) => first!.to));
  const cols = x.cols + (active?.padded ?? 0);
  return { active, parts, weight: room.take(x.dtype, rows, cols, wholeLines(cols, x.dtype)) };
}

function planActive({ x, weights, a, xTail, ranges }: AdaptedLinearsArgs, room: Room): Active | null {
  const rank = Math.max(0, ...activeRanges(ranges).map((range) => range.rank));
  const adapted = rank === 0 ? [] : weights.map((_, i) => i).filter((i) => a[i]);
  if (adapted.length === 0) return null;
  const padded = paddedRank(rank, x.dtype);
  const inPlace = adapted.length === 1 && a[adapted[0]!]!.dtype === x.dtype;
  const behind = xTail && xTail.cols >= padded;
  const cols = x.cols + padded;
  return {
    rank,
    padded,
    adapted,
    stack: inPlace ? null : room.take(x.dtype, adapted.length * padded, x.cols),
    narrow: room.take("f32", x.rows, adapted.length * padded),
    wide: behind ? { ...x, cols } : room.take(x.dtype, x.rows, cols, wholeLines(cols, x.dtype)),
  };
}

export function adaptedLinears(device: CudaDevice, args: AdaptedLinearsArgs, room: Room): Step {
  const { x, weights, biases, t, y } = args;
  commonType("adaptedLinears", x, ...[biases, t, y].flat().filter((tensor) => tensor !== null));
  if (x.rows === 0) return NOTHING;
  const plan = planForward(args, room, device.decodedBytes);
  const before = plan.active ? narrowProduct(device, args, plan.active) : NOTHING;
  return inOrder(before, ...weights.map((_, i) => oneLinear(device, args, plan, i)));
}

/** x·Aᵀ of the whole group; and x in `wide`, if it does not lie there. */
function narrowProduct(device: CudaDevice, { x, a }: AdaptedLinearsArgs, active: Active): Step {
  const { adapted, rank, stack, narrow, wide } = active;
  const all = adapted.map((i) => a[i]!);
  return inOrder(
    wide.offset === x.offset && wide.buffer === x.buffer ? NOTHING : castTo(device, x, colSlice(wide, 0, x.cols)),
    stack ? stackRows(device, all, rank, stack) : NOTHING,
    stack
      ? product(device, { c: narrow, a: x, b: stack, transposeB: true })
      : product(device, { c: colSlice(narrow, 0, rank), a: x, b: rowSlice(all[0]!, 0, rank), transposeB: true }),
  );
}

function oneLinear(device: CudaDevice, args: AdaptedLinearsArgs, plan: Plan, i: number): Step {
  const weight = args.weights[i]!;
  const [bias, c] = [args.biases[i]!, args.y[i]!];
  const unit = plan.active?.adapted.indexOf(i) ?? -1;
  if (!plan.active || unit < 0) {
    if (weight.format === "zero") return fillRows(device, bias, c);
    if ("values" in weight && weight.format === args.x.dtype)
      return biasedProduct(device, { c, a: args.x, b: weight.values, transposeB: true }, bias);
    return inOrder(...plan.parts[i]!.map((part) => barePart(device, args, plan, i, part)));
  }
  const { cols } = args.x;
  const { padded, narrow, wide } = plan.active;
  const from = colSlice(narrow, unit * padded, (unit + 1) * padded);
  const place = { from, padded, to: colSlice(wide, cols, cols + padded), named: args.t[i]! };
  return inOrder(
    placeProducts(device, place, args.ranges),
    ...plan.parts[i]!.map((part) => adaptedPart(device, args, plan, plan.active!, i, part)),
  );
}

/** Some columns of y_i = x·Wᵀ. */
function barePart(device: CudaDevice, args: AdaptedLinearsArgs, { weight: room }: Plan, i: number, part: Part): Step {
  const { c, bias, rows } = partOf(args, i, part);
  const weight = rowsOfWeight(args.weights[i]! as DenseWeight | FourBitWeight, part);
  const decoded = colSlice(rowSlice(room, 0, rows), 0, args.x.cols);
  return inOrder(
    decodeInto(device, weight, decoded),
    biasedProduct(device, { c, a: args.x, b: decoded, transposeB: true }, bias),
  );
}

/** Some columns of y_i = [x | t]·[W | Bᵀ]ᵀ. */
function adaptedPart(
  device: CudaDevice,
  args: AdaptedLinearsArgs,
  { weight: room }: Plan,
  { rank, padded, wide }: Active,
  i: number,
  part: Part,
): Step {
  const { c, bias, rows } = partOf(args, i, part);
  const weight = args.weights[i]!;
  const { cols } = args.x;
  const beside = rowSlice(room, 0, rows);
  /** The product starts behind x where there is no base. */
  const first = weight.format === "zero" ? cols : 0;
  const [a, b] = [colSlice(wide, first, cols + padded), colSlice(beside, first, cols + padded)];
  return inOrder(
    weight.format === "zero" ? NOTHING : decodeInto(device, rowsOfWeight(weight, part), colSlice(beside, 0, cols)),
    turnRows(device, colSlice(args.b[i]!, part.from, part.to), rank, colSlice(beside, cols, cols + padded)),
    biasedProduct(device, { c, a, b, transposeB: true }, bias),
  );
}

function partOf({ y, biases }: AdaptedLinearsArgs, i: number, { from, to }: Part) {
  const bias = biases[i];
  return { c: colSlice(y[i]!, from, to), bias: bias ? colSlice(bias, from, to) : null, rows: to - from };
}

function biasedProduct(device: CudaDevice, of: ProductOf, bias: Tensor | null): Step {
  if (!bias || bias.offset % BIAS_ALIGNMENT === 0) return product(device, { ...of, bias });
  return inOrder(fillRows(device, bias, of.c), product(device, { ...of, beta: 1 }));
}
