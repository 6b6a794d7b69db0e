// Decoding: at most 8 rows of x against weights that are read once. Linears of a group that are stored alike share a launch;
// each row of x may have a rank of its own.

import type { AdaptedLinearsArgs } from "../../ops/adapted-linears.ts";
import { type DenseWeight, type FourBitWeight, type FrozenWeight, SCALE_BLOCK } from "../../ops/frozen-weight.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { activeRanges, paddedRank } from "./adapter-columns.ts";
import { addressOf } from "./buffer.ts";
import type { CudaDevice, Step } from "./device.ts";
import { commonType, elementType, inOrder } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { NOTHING } from "./products.ts";
import { fourBitWords } from "./quantization.ts";
import type { Room } from "./room.ts";

const MOST_ROWS = 8;
const MOST_LINEARS = 4;
/** Rows hold whole blocks of scales. */
const BLOCK = 64;
const TILE = 16;
const WARPS = 8;
const NARROW_THREADS = 512;
/** What a warp copies at a time (few-rows.cu). */
const PIECE_BYTES = 1024;
/** Shared memory of a block whatever the width: lookups, partial sums, maps of scale codes. */
const FIXED_BYTES = 45_056;
/** What the driver takes of a multiprocessor's shared memory for each block, and keeps from the largest. */
const DRIVER_BYTES = 1024;
/** Blocks of a multiprocessor, and pieces on their way for a warp, the best first: what fits in shared memory is taken. */
const CONFIGURATIONS = [2, 1].flatMap((resident) => [4, 3, 2].map((stages) => ({ resident, stages })));
const NO_ADAPTER = 0xffffffff;
const DENSE_WORDS = 4;
const LINEAR_WORDS = 14;

/** A linear without what belongs to its adapter's A. */
interface Linear {
  readonly weight: DenseWeight | FourBitWeight;
  readonly bias: Tensor | null;
  readonly b: Tensor | null;
  readonly y: Tensor;
  /** First column of its adapter in t. */
  readonly unit: number;
}

/** Whether few rows of x meet weights that the kernels can read in whole words. `compute`: what must have x's dtype. */
export function hasFewRows(
  device: CudaDevice,
  x: Tensor,
  weights: readonly FrozenWeight[],
  compute: readonly (Tensor | null)[],
): boolean {
  const fits = x.rows >= 1 && x.rows <= MOST_ROWS && x.cols % BLOCK === 0 && x.dtype === "bf16" && startsWhole(x);
  const readable = (weight: FrozenWeight) =>
    isReadable(weight) && ("values" in weight || configurationFor(device, weight) !== undefined);
  return fits && weights.every(readable) && compute.every((tensor) => tensor?.dtype !== "f32");
}

/** Rows that start on 16 bytes. */
export const startsWhole = (tensor: Tensor): boolean =>
  tensor.offset % 16 === 0 && (tensor.rows === 1 || tensor.stride % 8 === 0);

function isReadable(weight: FrozenWeight): weight is DenseWeight | FourBitWeight {
  if (weight.format === "zero") return false;
  if (!("values" in weight)) return [weight.codes, scalesOf(weight)].every(({ offset }) => offset % 16 === 0);
  return weight.format === "bf16" && startsWhole(weight.values);
}

/** What is stored of the scales of blocks. */
const scalesOf = ({ scales }: FourBitWeight): Tensor => (scales.kind === "double" ? scales.codes : scales.absmax);

/** Bytes of a tile's scales as they are stored: f32, or codes with their own scales behind them. */
function storedBytes({ scales, cols }: FourBitWeight): number {
  const blocks = TILE * (cols / BLOCK);
  const bytes = scales.kind === "double" ? blocks + 4 * (Math.ceil(blocks / SCALE_BLOCK) + 2) : 4 * blocks;
  return Math.ceil(bytes / 16) * 16;
}

/** The first configuration that fits, with the dynamic shared memory of a block. */
function configurationFor({ sharedBytesPerBlock }: CudaDevice, weight: FourBitWeight) {
  const blocks = weight.cols / BLOCK;
  const scales = 2 * storedBytes(weight) + 4 * TILE * (blocks + 2 + (blocks % 2));
  return CONFIGURATIONS.map(({ resident, stages }) => {
    const sharedBytes = WARPS * stages * PIECE_BYTES + scales;
    return { resident, stages, sharedBytes, all: resident * (sharedBytes + FIXED_BYTES + DRIVER_BYTES) };
  }).find(({ all }) => all <= sharedBytesPerBlock + DRIVER_BYTES);
}

/** What a call takes of its scratch: t of all adapters, f32 [N, adapters × padded]. */
export function planFewRows({ x, a, ranges }: AdaptedLinearsArgs, room: Room) {
  const rank = Math.max(0, ...activeRanges(ranges).map((range) => range.rank));
  const adapted = rank === 0 ? [] : a.map((_, i) => i).filter((i) => a[i]);
  const padded = paddedRank(rank, x.dtype);
  return {
    rank,
    adapted,
    padded,
    narrow: adapted.length === 0 ? null : room.take("f32", x.rows, adapted.length * padded),
  };
}

export function adaptedFewRows(device: CudaDevice, args: AdaptedLinearsArgs, room: Room): Step {
  const { x, weights, biases, b, y } = args;
  const plan = planFewRows(args, room);
  const linears = weights.map((weight, i): Linear => {
    const unit = plan.adapted.indexOf(i);
    // hasFewRows() has seen that no weight is zero.
    const stored = weight as DenseWeight | FourBitWeight;
    return { weight: stored, bias: biases[i]!, b: b[i]!, y: y[i]!, unit: unit < 0 ? NO_ADAPTER : unit * plan.padded };
  });
  const rank = plan.narrow ? plan.rank : 0;
  const launches = alike(linears).map((group) => fewRows(device, x, group, plan.narrow, rank));
  return inOrder(plan.narrow ? narrowProducts(device, args, plan, plan.narrow) : NOTHING, ...launches);
}

/** Neighbours that are stored alike. */
function alike(linears: readonly Linear[]): Linear[][] {
  const groups: Linear[][] = [];
  for (const linear of linears) {
    const group = groups.at(-1);
    if (group && storage(group[0]!.weight) === storage(linear.weight)) group.push(linear);
    else groups.push([linear]);
  }
  return groups;
}

const storage = (weight: DenseWeight | FourBitWeight): string =>
  "values" in weight ? "dense" : `${weight.format} ${weight.scales.kind}`;

function fewRows(device: CudaDevice, x: Tensor, linears: readonly Linear[], t: Tensor | null, rank: number): Step {
  const { weight, y } = linears[0]!;
  const tiles = linears.reduce((sum, { weight: { rows } }) => sum + Math.ceil(rows / TILE), 0);
  const types = { TYPE: elementType(y), ADAPTER_TYPE: adapterType(linears.map(({ b }) => b)) };
  const args = kernelArguments().tensors(x).longs(x.stride).integers(x.rows, x.cols);
  args.tensors(t).integers(t?.stride ?? 0, rank, linears.length);
  if ("values" in weight) {
    const kernel = device.function("few-rows-dense.cu", "few_rows_dense", types);
    return device.launchEarly(kernel, [tiles], 32 * WARPS, args.structure(structureOf(linears)));
  }
  // hasFewRows() has seen that one fits.
  const { resident, stages, sharedBytes } = configurationFor(device, weight)!;
  const macros = { ...types, DOUBLE: weight.scales.kind === "double" ? 1 : 0, STAGES: stages };
  const kernel = device.function("few-rows.cu", "few_rows", macros, sharedBytes);
  args.integers(tiles, storedBytes(weight)).structure(structureOf(linears));
  return device.launchEarly(kernel, [Math.min(tiles, resident * device.multiprocessors)], 32 * WARPS, args);
}

/** The one type of the A's or B's of a launch; any, if there is none. */
function adapterType(tensors: readonly (Tensor | null)[]): "float" | "bf16" {
  const given = tensors.filter((tensor) => tensor !== null);
  return given.length === 0 ? "bf16" : commonType("adaptedLinears", ...given);
}

/** The structure Linears of the kernel. */
function structureOf(linears: readonly Linear[]): Uint32Array {
  const parts = linears.map(({ weight }) => weightWords(weight));
  const weightLength = parts[0]!.length;
  const words = new Uint32Array(MOST_LINEARS * (LINEAR_WORDS + weightLength));
  let tile = 0;
  for (const [i, { weight, bias, b, y, unit }] of linears.entries()) {
    const longs = [addressOf(y), y.stride, bias ? addressOf(bias) : 0, b ? addressOf(b) : 0, b?.stride ?? 0];
    words.set(new Uint32Array(BigUint64Array.from(longs.map(BigInt)).buffer), i * LINEAR_WORDS);
    words.set([weight.rows, tile, unit], i * LINEAR_WORDS + 2 * longs.length);
    words.set(parts[i]!, MOST_LINEARS * LINEAR_WORDS + i * weightLength);
    tile += Math.ceil(weight.rows / TILE);
  }
  return words;
}

function weightWords(weight: DenseWeight | FourBitWeight): Uint32Array {
  if (!("values" in weight)) return fourBitWords(weight);
  const { values } = weight;
  const words = new Uint32Array(DENSE_WORDS);
  new BigUint64Array(words.buffer).set([BigInt(addressOf(values)), BigInt(values.stride)]);
  return words;
}

function narrowProducts(
  device: CudaDevice,
  { x, a, t, ranges }: AdaptedLinearsArgs,
  { rank, adapted, padded }: ReturnType<typeof planFewRows>,
  narrow: Tensor,
): Step {
  const kernel = device.function("few-rows-narrow.cu", "few_rows_narrow", { ADAPTER_TYPE: adapterType(a) });
  const adapters = new BigUint64Array(4 * MOST_LINEARS);
  for (const [unit, i] of adapted.entries())
    for (const [field, tensor] of [a[i]!, t[i]!].entries()) {
      adapters[2 * field * MOST_LINEARS + unit] = BigInt(addressOf(tensor));
      adapters[(2 * field + 1) * MOST_LINEARS + unit] = BigInt(tensor.stride);
    }
  const ranks = new Uint32Array(2 * MOST_ROWS);
  const scales = new Float32Array(ranks.buffer, MOST_ROWS * BYTES_PER_ELEMENT.f32);
  for (const range of activeRanges(ranges)) {
    ranks.fill(range.rank, range.from, range.to);
    scales.fill(range.scale, range.from, range.to);
  }
  const args = kernelArguments().tensors(x).longs(x.stride).integers(x.rows, x.cols).tensors(narrow);
  args.integers(narrow.stride, padded).structure(new Uint32Array(adapters.buffer)).structure(ranks);
  return device.launchEarly(kernel, [rank, adapted.length], NARROW_THREADS, args);
}
