// adaptedLinearsBackward on cuBLASLt: where the dY_i lie side by side with room for the g_i behind them (`dyTail`), dX of the
// whole group is ONE product [dY_1 | dY_2 | … | g]·[W_1; W_2; …; A], with the weights decoded below one another into scratch.
// Where they would take too much of it, some columns of all weights at a time give as many columns of dX. dY_i that do not lie
// side by side go in as many products as needed, which add to dX.

import type { AdaptedLinearsBackwardArgs } from "../../ops/adapted-linears-backward.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import { colSlice, rowSlice, type Tensor } from "../../tensor/tensor.ts";
import type { Wish } from "../backend.ts";
import {
  activeRanges,
  addRows,
  fillRows,
  paddedRank,
  placeProducts,
  stackRows,
  wholeLines,
} from "./adapter-columns.ts";
import type { CudaDevice, Step } from "./device.ts";
import { commonType, inOrder } from "./kernel.ts";
import { NOTHING, product } from "./products.ts";
import { decodeInto } from "./quantization.ts";
import type { Room } from "./room.ts";
import { columnParts, DECODED_BYTES, type Part } from "./weight-parts.ts";

/** The gradients side by side, with room for every g behind them, where all start as the tensor cores like it. */
export function backwardWishes({ x, a, dy }: AdaptedLinearsBackwardArgs): readonly Wish[] {
  const adapted = a.filter((entry) => entry !== null);
  const unit = paddedRank(1, x.dtype);
  if (adapted.length === 0 || dy.some(({ cols }) => cols % unit !== 0)) return [];
  const columns = adapted.length * paddedRank(adapted[0]!.rows, x.dtype);
  return [{ beside: "dy", tail: "dyTail", tailColumns: wholeLines(columns, x.dtype) }];
}

/** Weights that go into dX in one product: those of linears first..end−1, and A's after them. */
interface Span {
  readonly first: number;
  readonly end: number;
  readonly adapters: boolean;
}

interface Plan {
  /** Largest active rank. */
  readonly rank: number;
  /** Columns of each adapter in `g`. */
  readonly padded: number;
  /** Linears with an active adapter, in the order of the units of `g`. */
  readonly adapted: readonly number[];
  /** dY·B of all adapters, not scaled yet: f32 [N, adapters × padded]. */
  readonly narrow: Tensor | null;
  /** B of one adapter, where it is rounded from its master. */
  readonly rounded: Tensor | null;
  /** g of all adapters: behind the dY_i, or in scratch. */
  readonly g: Tensor | null;
  /** t with zeros where no adapter acts: for ranges of several ranks. */
  readonly masked: Tensor | null;
  /** dA of all adapters below one another; null where the only one is added to in place. */
  readonly sums: Tensor | null;
  /** Products that make dX; the A's alone if `first` is `end`. */
  readonly spans: readonly Span[];
  /** Columns of dX that are made at once. */
  readonly columns: readonly Part[];
  /** Weights, then A's, of the largest span, in the columns of one part. */
  readonly weight: Tensor;
}

/** What a call takes of its scratch, of which decoded weights take `decodedBytes` at most. */
export function planBackward(args: AdaptedLinearsBackwardArgs, room: Room, decodedBytes = DECODED_BYTES): Plan {
  const { x, weights, a, b, dx, dyTail, ranges } = args;
  const active = activeRanges(ranges);
  const rank = Math.max(0, ...active.map((range) => range.rank));
  const padded = paddedRank(rank, x.dtype);
  const adapted = rank === 0 ? [] : weights.map((_, i) => i).filter((i) => a[i]);
  const units = adapted.length * padded;
  const behind = dyTail && dyTail.cols >= units ? colSlice(dyTail, 0, units) : null;
  const spans = dx ? spansOf(args, units > 0 && behind !== null, units > 0) : [];
  const rowsOf = ({ first, end, adapters }: Span) => weightRows(args, first, end) + (adapters ? units : 0);
  // As at the largest rank: a smaller one must do with the same scratch.
  const mostUnits = a.reduce((sum, entry) => sum + paddedRank(entry?.rows ?? 0, x.dtype), 0);
  const mostRows = weightRows(args, 0, weights.length) + mostUnits;
  const columns = columnParts(x.cols, mostRows, BYTES_PER_ELEMENT[x.dtype], decodedBytes);
  return {
    rank,
    padded,
    adapted,
    narrow: units === 0 ? null : room.take("f32", x.rows, units),
    rounded: adapted.some((i) => b[i]!.dtype !== x.dtype)
      ? room.take(x.dtype, padded, Math.max(...adapted.map((i) => weights[i]!.rows)))
      : null,
    g: units === 0 ? null : (behind ?? room.take(x.dtype, x.rows, units)),
    masked: units > 0 && active.length > 1 ? room.take(x.dtype, x.rows, padded) : null,
    sums: adapted.length > 1 ? room.take("f32", units, x.cols) : null,
    spans,
    columns,
    weight: room.take(x.dtype, Math.max(0, ...spans.map(rowsOf)), columns[0]!.to),
  };
}

const weightRows = ({ weights }: AdaptedLinearsBackwardArgs, first: number, end: number): number =>
  weights.slice(first, end).reduce((sum, { rows }) => sum + rows, 0);

/** Neighbours whose gradients lie side by side; weights that are zero drop out. */
function spansOf(args: AdaptedLinearsBackwardArgs, tail: boolean, adapters: boolean): Span[] {
  const { weights, dy } = args;
  const spans: Span[] = [];
  for (const [i, weight] of weights.entries()) {
    if (weight.format === "zero") continue;
    const last = spans.at(-1);
    const joins = last?.end === i && adjoins(dy[i - 1]!, dy[i]!);
    if (joins) spans[spans.length - 1] = { ...last, end: i + 1 };
    else spans.push({ first: i, end: i + 1, adapters: false });
  }
  const last = spans.at(-1);
  if (adapters && tail && last?.end === weights.length) spans[spans.length - 1] = { ...last, adapters: true };
  else if (adapters) spans.push({ first: 0, end: 0, adapters: true });
  return spans;
}

const adjoins = (left: Tensor, right: Tensor): boolean =>
  left.buffer === right.buffer &&
  left.stride === right.stride &&
  right.offset === left.offset + left.cols * BYTES_PER_ELEMENT[left.dtype];

export function adaptedLinearsBackward(device: CudaDevice, args: AdaptedLinearsBackwardArgs, room: Room): Step {
  const { x, t, dy, dx, da, db } = args;
  commonType("adaptedLinearsBackward", x, ...[t, dy, dx].flat().filter((tensor) => tensor !== null));
  const sums = [...da, ...db].filter((tensor) => tensor !== null);
  if (sums.length > 0) commonType("adaptedLinearsBackward", ...sums);
  if (x.rows === 0) return NOTHING;
  const plan = planBackward(args, room, device.decodedBytes);
  return inOrder(
    gradientOfNarrow(device, args, plan),
    ...plan.spans.map((span, i) => inputGradient(device, args, plan, span, i > 0)),
    dx && plan.spans.length === 0 ? fillRows(device, null, dx) : NOTHING,
    gradientOfA(device, args, plan),
    gradientOfB(device, args, plan),
  );
}

/** g = s·dY·B of every adapter. */
function gradientOfNarrow(device: CudaDevice, { b, dy, ranges }: AdaptedLinearsBackwardArgs, plan: Plan): Step {
  const { adapted, narrow, padded, rank, g, rounded } = plan;
  if (!narrow) return NOTHING;
  const products = adapted.map((i, unit) => {
    const [from, a, master] = [unit * padded, dy[i]!, b[i]!];
    if (!rounded || master.dtype === rounded.dtype) {
      const c = colSlice(narrow, from, from + rank);
      return product(device, { c, a, b: rowSlice(master, 0, rank), transposeB: true });
    }
    const read = colSlice(rounded, 0, master.cols);
    const c = colSlice(narrow, from, from + padded);
    return inOrder(stackRows(device, [master], rank, read), product(device, { c, a, b: read, transposeB: true }));
  });
  return inOrder(...products, placeProducts(device, { from: narrow, padded, to: g, named: null }, ranges));
}

/** dX = (or +=) [dY_first | … | g]·[W_first; …; A], some columns after the others. */
function inputGradient(
  device: CudaDevice,
  args: AdaptedLinearsBackwardArgs,
  plan: Plan,
  span: Span,
  adds: boolean,
): Step {
  const { first, end, adapters } = span;
  const weight = args.weights[first];
  const beta = adds ? 1 : 0;
  const alone = end === first + 1 && !adapters;
  if (alone && weight && "values" in weight && weight.format === args.x.dtype)
    return product(device, { c: args.dx!, a: args.dy[first]!, b: weight.values, beta });
  return inOrder(...plan.columns.map((part) => someColumns(device, args, plan, span, part, beta)));
}

function someColumns(
  device: CudaDevice,
  args: AdaptedLinearsBackwardArgs,
  plan: Plan,
  { first, end, adapters }: Span,
  { from, to }: Part,
  beta: 0 | 1,
): Step {
  const { adapted, rank, g } = plan;
  const rows = weightRows(args, first, end);
  const units = adapters ? g!.cols : 0;
  const c = colSlice(args.dx!, from, to);
  const b = rowSlice(colSlice(plan.weight, 0, to - from), 0, rows + units);
  const ofA = adapted.map((i) => colSlice(args.a[i]!, from, to));
  return inOrder(
    ...decodeSpan(device, args, b, first, end, from),
    adapters ? stackRows(device, ofA, rank, rowSlice(b, rows, rows + units)) : NOTHING,
    product(device, { c, a: first === end ? g! : { ...args.dy[first]!, cols: rows + units }, b, beta }),
  );
}

/** The weights of a span below one another, from column `column` on. */
function decodeSpan(
  device: CudaDevice,
  args: AdaptedLinearsBackwardArgs,
  to: Tensor,
  first: number,
  end: number,
  column: number,
): Step[] {
  return args.weights.slice(first, end).map((weight, i) => {
    if (weight.format === "zero") throw new Error("a weight that is zero is in no span");
    const from = weightRows(args, first, first + i);
    return decodeInto(device, weight, rowSlice(to, from, from + weight.rows), column);
  });
}

/** dA[:b] += gᵀ·x: all adapters in one product, where there are several. */
function gradientOfA(device: CudaDevice, { x, da }: AdaptedLinearsBackwardArgs, plan: Plan): Step {
  const { adapted, g, rank, sums, padded } = plan;
  if (!g) return NOTHING;
  const targets = adapted.map((i) => da[i]!);
  if (!sums) {
    const c = rowSlice(targets[0]!, 0, rank);
    return product(device, { c, a: colSlice(g, 0, rank), b: x, transposeA: true, beta: 1 });
  }
  return inOrder(
    product(device, { c: sums, a: g, b: x, transposeA: true }),
    addRows(device, sums, padded, targets, rank),
  );
}

/** dB[:b] += tᵀ·dY, over the rows on which the adapter acts. */
function gradientOfB(device: CudaDevice, args: AdaptedLinearsBackwardArgs, plan: Plan): Step {
  const { adapted, rank, masked, padded } = plan;
  const [only] = activeRanges(args.ranges);
  const steps = adapted.map((i) => {
    const c = rowSlice(args.db[i]!, 0, rank);
    const [t, dy] = [args.t[i]!, args.dy[i]!];
    if (masked) {
      const place = { from: t, padded, to: masked, named: null, scaled: true };
      const a = colSlice(masked, 0, rank);
      return inOrder(
        placeProducts(device, place, args.ranges),
        product(device, { c, a, b: dy, transposeA: true, beta: 1 }),
      );
    }
    const { from, to } = only!;
    const a = colSlice(rowSlice(t, from, to), 0, rank);
    return product(device, { c, a, b: rowSlice(dy, from, to), transposeA: true, beta: 1 });
  });
  return inOrder(...steps);
}
