// The 4-bit layout of bitsandbytes in safetensors. A weight P of M·K values is
//   P                                        codes, ceil(M·K/2) bytes, U8 [., 1] (or another storage dtype: same bytes)
//   P.absmax                                 F32 [blocks], or U8 [blocks] under double quantisation
//   P.quant_map                              F32 [16], the code-book
//   P.nested_absmax, P.nested_quant_map      F32, only under double quantisation
//   P.quant_state.bitsandbytes__nf4 (__fp4)  UTF-8 JSON as U8: quant_type, blocksize, dtype, shape, nested_*
// A tensor is 4-bit if and only if its quant_state is there.

import { z } from "zod";
import { QdlError } from "../errors.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { toF32 } from "../formats/float-convert.ts";
import { bytesOf, type StoredTensor } from "../formats/safetensors.ts";
import { CODE_BOOKS, type FourBitFormat } from "../ops/code-books.ts";
import { QUANT_BLOCK, SCALE_BLOCK } from "../ops/frozen-weight.ts";

export type StoredScales =
  /** absmax F32 [blocks] */
  | { readonly kind: "plain"; readonly absmax: StoredTensor }
  /** codes U8 [blocks], absmax2 F32 [ceil(blocks/256)], map f32 [256] */
  | {
      readonly kind: "double";
      readonly codes: StoredTensor;
      readonly absmax2: StoredTensor;
      readonly map: Float32Array;
      readonly offset: number;
    };

/** A 4-bit weight as stored, [M, K], checked but not read. */
export interface StoredFourBit {
  readonly kind: "4bit";
  readonly format: FourBitFormat;
  /** Dtype of the weight before quantisation, and of what bitsandbytes dequantises to. */
  readonly dtype: (typeof DTYPES)[number];
  /** ceil(M·K/2) bytes. */
  readonly codes: StoredTensor;
  readonly scales: StoredScales;
}

const DTYPES = ["bfloat16", "float16", "float32"] as const;

export const QUANT_STATE = ".quant_state.bitsandbytes__";
const FORMATS = ["nf4", "fp4"] as const;

/** What is needed of a checkpoint here. */
export type TensorLookup = Pick<Checkpoint, "name" | "find" | "tensor">;

interface FoundState {
  /** The weight's name: "model.layers.0.self_attn.q_proj.weight". */
  readonly weight: string;
  readonly format: FourBitFormat;
}

/** The quantisation state of weight `name`, if the checkpoint has one. */
export function findQuantState(checkpoint: TensorLookup, name: string): FoundState | null {
  const format = FORMATS.find((candidate) => checkpoint.find(name + QUANT_STATE + candidate) !== null);
  return format ? { weight: name, format } : null;
}

/**
 * Checks state and parts of a stored 4-bit weight against each other and against [rows, cols] of the config.
 * Throws QUANT_STATE_INVALID, TENSOR_SHAPE, TENSOR_MISSING.
 */
export async function readStoredFourBit(
  checkpoint: TensorLookup,
  { weight, format }: FoundState,
  rows: number,
  cols: number,
): Promise<StoredFourBit> {
  const part = (suffix: string): StoredTensor => checkpoint.tensor(weight + suffix);
  const state = await readState(part(QUANT_STATE + format), format);
  if (state.shape.length !== 2 || state.shape[0] !== rows || state.shape[1] !== cols)
    throw new QdlError(
      "TENSOR_SHAPE",
      `${checkpoint.name}: ${weight} is [${state.shape.join(", ")}], expected [${rows}, ${cols}] because of the sizes in config.json`,
      { hint: "config.json and weights are of different models.", details: { tensor: weight } },
    );
  await requireCodeBook(part(".quant_map"), format);
  const blocks = Math.ceil((rows * cols) / QUANT_BLOCK);
  // Bytes, whatever their dtype is called: as floats many of them would be NaN.
  const codes: StoredTensor = { ...requireBytes(part(""), Math.ceil((rows * cols) / 2)), dtype: "U8" };
  return { kind: "4bit", format, dtype: state.dtype, codes, scales: await readScales(part, state, blocks) };
}

const STATE = z.object({
  quant_type: z.enum(FORMATS),
  blocksize: z.literal(QUANT_BLOCK),
  dtype: z.enum(DTYPES),
  shape: z.array(z.int().min(1)),
  nested_blocksize: z.literal(SCALE_BLOCK).optional(),
  nested_dtype: z.literal("float32").optional(),
  nested_offset: z.number().optional(),
});
type State = z.infer<typeof STATE>;

async function readState(tensor: StoredTensor, format: FourBitFormat): Promise<State> {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await tensor.read()));
  } catch (cause) {
    throw stateInvalid(tensor, `not valid JSON: ${cause instanceof Error ? cause.message : cause}`);
  }
  const parsed = STATE.safeParse(json);
  if (!parsed.success) throw stateInvalid(tensor, z.prettifyError(parsed.error).replaceAll("\n", " "));
  if (parsed.data.quant_type !== format) throw stateInvalid(tensor, `quant_type is ${parsed.data.quant_type}`);
  return parsed.data;
}

async function readScales(part: (suffix: string) => StoredTensor, state: State, blocks: number): Promise<StoredScales> {
  if (state.nested_offset === undefined)
    return { kind: "plain", absmax: requireVector(part(".absmax"), "F32", blocks) };
  const stored = requireVector(part(".nested_quant_map"), "F32", 256);
  const map = toF32("F32", await stored.read());
  if (!map.every(Number.isFinite)) throw stateInvalid(stored, "an entry is not finite");
  return {
    kind: "double",
    codes: requireVector(part(".absmax"), "U8", blocks),
    absmax2: requireVector(part(".nested_absmax"), "F32", Math.ceil(blocks / SCALE_BLOCK)),
    map,
    offset: state.nested_offset,
  };
}

/** The stored code-book must be the format's own, to the bit: kernels have no other. */
async function requireCodeBook(tensor: StoredTensor, format: FourBitFormat): Promise<void> {
  requireVector(tensor, "F32", 16);
  const stored = toF32("F32", await tensor.read());
  const expected = CODE_BOOKS[format];
  const wrong = stored.findIndex((value, i) => value !== expected[i]);
  if (wrong >= 0)
    throw stateInvalid(tensor, `entry ${wrong} is ${stored[wrong]}, expected ${expected[wrong]} (${format})`);
}

function requireVector(tensor: StoredTensor, dtype: "F32" | "U8", length: number): StoredTensor {
  if (tensor.dtype !== dtype) throw stateInvalid(tensor, `dtype is ${tensor.dtype}, expected ${dtype}`);
  return requireBytes(tensor, dtype === "F32" ? length * 4 : length);
}

function requireBytes(tensor: StoredTensor, bytes: number): StoredTensor {
  if (tensor.bytes !== bytes) throw stateInvalid(tensor, `${tensor.bytes} bytes are stored, expected ${bytes}`);
  return tensor;
}

function stateInvalid(tensor: StoredTensor, reason: string): QdlError {
  return new QdlError("QUANT_STATE_INVALID", `${tensor.file}: ${tensor.name}: ${reason}`, {
    hint: "Only the 4-bit layout of bitsandbytes with blocks of 64 (and 256 for scales) is read.",
    details: { path: tensor.file, tensor: tensor.name },
  });
}

export interface StateToWrite {
  readonly format: FourBitFormat;
  readonly rows: number;
  readonly cols: number;
  /** Dtype of the weight before quantisation, and of what bitsandbytes dequantises to. */
  readonly dtype: StoredFourBit["dtype"];
  /** Mean of all absmax under double quantisation, else null. */
  readonly offset: number | null;
}

/** Most characters of a number in JSON, in excess of the one digit that `stateText` is measured with. */
const NUMBER_ROOM = 24;

/**
 * Length of the encoded state, known before the offset is: the text with room for any number, rounded up so that it ends
 * at a multiple of 8 bytes, `before` bytes after one. (Readers map F32 tensors in place, and codes have any length.)
 */
export function stateLength(state: StateToWrite, before: number): number {
  const room = stateText({ ...state, offset: state.offset === null ? null : 0 }).length + NUMBER_ROOM;
  return Math.ceil((before + room) / 8) * 8 - before;
}

/** The quant_state JSON as bitsandbytes writes it, in UTF-8, padded with spaces to `length`; JSON ignores them. */
export function encodeState(state: StateToWrite, length: number): Uint8Array {
  return new TextEncoder().encode(stateText(state).padEnd(length));
}

function stateText({ format, rows, cols, dtype, offset }: StateToWrite): string {
  const nested = { nested_blocksize: SCALE_BLOCK, nested_dtype: "float32", nested_offset: offset };
  const plain = { quant_type: format, blocksize: QUANT_BLOCK, dtype, shape: [rows, cols] };
  return JSON.stringify(offset === null ? plain : { ...plain, ...nested });
}

/** The code-book as stored in `quant_map`. */
export const codeBookBytes = (format: FourBitFormat): Uint8Array => bytesOf(CODE_BOOKS[format]);
