// A checkpoint → the frozen base on a device, tensor by tensor. Dense weights are quantised on the device (or rounded, for
// bf16 and f32 bases); weights that are 4-bit already are copied to the bit. Embedding and head stay in 16 bit; norms and
// biases are held in the compute dtype; tied weights are held once. Everything lies in one buffer.

import type { Backend } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { bytesOf, type StoredTensor } from "../formats/safetensors.ts";
import type { LinearName, ModelConfig } from "../model/config.ts";
import type { BaseIdentity, FrozenModel } from "../model/frozen-model.ts";
import { dynamicMap } from "../ops/code-books.ts";
import { type BaseFormat, QUANT_BLOCK } from "../ops/frozen-weight.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";
import { assemble, type Offsets } from "./assemble.ts";
import {
  type BaseLayout,
  type LinearSlots,
  layOutBase,
  mapValues,
  type NormSlots,
  type Slot,
  tensorAt,
  type WeightSlots,
  type WeightStorage,
} from "./base-layout.ts";
import { type BaseTensors, findBaseTensors, type StoredLinear, type StoredNorm } from "./base-tensors.ts";
import { ChunkReader } from "./chunks.ts";
import { embeddingDtypeOf, isFourBit } from "./estimate-base.ts";
import { copiedParts } from "./four-bit-layout.ts";
import { checkQuantizationConfig } from "./quantization-config.ts";
import { type FourBitTarget, Quantizer } from "./quantizer.ts";
import { settle } from "./staging.ts";
import { Uploader } from "./upload.ts";

export interface LoadProgress {
  /** The tensor just done. */
  readonly tensor: string;
  readonly doneBytes: number;
  /** Stored bytes of all tensors that are read. */
  readonly totalBytes: number;
}

export interface LoadBaseOptions {
  readonly checkpoint: Checkpoint;
  readonly config: ModelConfig;
  readonly backend: Backend;
  /** Default: as stored if the checkpoint is 4-bit already, else nf4. */
  readonly format?: BaseFormat | undefined;
  /** Default true. A checkpoint that is 4-bit already keeps its own scales. */
  readonly doubleQuant?: boolean | undefined;
  /** Dtype of activations, norms and biases. Default: the backend's. */
  readonly computeDtype?: "bf16" | "f32" | undefined;
  /** What the loader cannot know: name, revision and hashes. A promise is awaited when all weights are loaded. */
  readonly identity: GivenIdentity | Promise<GivenIdentity>;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

export type GivenIdentity = Pick<BaseIdentity, "name" | "revision" | "sha256" | "templateSha256">;

/**
 * Loads the base. The caller owns the result and disposes it; the checkpoint stays open and is the caller's.
 * Throws TENSOR_MISSING, TENSOR_SHAPE, TENSOR_DTYPE, TENSOR_NONFINITE, QUANT_STATE_INVALID, MODEL_UNSUPPORTED (another
 * quantisation), CONFIG_INVALID (`format` against a checkpoint that is 4-bit already), MEMORY_EXCEEDED, SAFETENSORS_INVALID,
 * and what `identity` is rejected with.
 */
export async function loadBase(options: LoadBaseOptions): Promise<FrozenModel> {
  const { checkpoint, config, backend } = options;
  checkQuantizationConfig(checkpoint);
  const tensors = await findBaseTensors(checkpoint, config);
  const format = chooseFormat(checkpoint, tensors, options.format);
  const computeDtype = options.computeDtype ?? backend.computeDtype;
  const plan = planBase(tensors, options, format, computeDtype);
  const buffer = backend.alloc(plan.layout.bytes, `frozen base (${format})`);
  try {
    const offsets = await new Loader(options, buffer, plan).load(tensors);
    const identity = await options.identity;
    return {
      config,
      identity: {
        ...identity,
        family: config.family,
        format,
        blockSize: QUANT_BLOCK,
        doubleQuant: plan.maps.length > 0,
      },
      computeDtype,
      ...assemble(buffer, plan.layout, offsets),
      bytes: buffer.bytes,
      dispose: () => buffer.dispose(),
    };
  } catch (error) {
    buffer.dispose();
    throw error;
  }
}

/** How `loadBase` would hold the weights of a checkpoint. Throws what it throws before it reads weights. */
export async function heldFormat(
  options: Pick<LoadBaseOptions, "checkpoint" | "config" | "format" | "doubleQuant">,
): Promise<Omit<BaseIdentity, keyof GivenIdentity>> {
  const { checkpoint, config } = options;
  checkQuantizationConfig(checkpoint);
  const tensors = await findBaseTensors(checkpoint, config);
  const format = chooseFormat(checkpoint, tensors, options.format);
  const { maps } = planBase(tensors, options, format, "f32");
  return { family: config.family, format, blockSize: QUANT_BLOCK, doubleQuant: maps.length > 0 };
}

interface Plan {
  readonly layout: BaseLayout;
  readonly maps: readonly Float32Array[];
}

/** Storage of every linear: its own if it is 4-bit already, else the format asked for. */
function planBase(
  tensors: BaseTensors,
  { config, doubleQuant = true }: Pick<LoadBaseOptions, "config" | "doubleQuant">,
  format: BaseFormat,
  computeDtype: "bf16" | "f32",
): Plan {
  const maps: Float32Array[] = [];
  const mapIndex = (map: Float32Array): number => {
    const known = maps.findIndex((other) => other.every((value, i) => value === map[i]));
    return known >= 0 ? known : maps.push(map) - 1;
  };
  const alreadyFourBit = linearsOf(tensors).some(({ linear }) => linear.weight.kind === "4bit");
  const storageOf = ({ weight }: StoredLinear): WeightStorage => {
    if (weight.kind === "4bit")
      return { format: weight.format, map: weight.scales.kind === "double" ? mapIndex(weight.scales.map) : null };
    // A dense weight beside 4-bit ones was left so on purpose: it is held as it is, where bf16 would round it in f32.
    if (alreadyFourBit) return { format: weight.tensor.dtype === "BF16" ? "bf16" : "f32", map: null };
    return { format, map: isFourBit(format) && doubleQuant ? mapIndex(dynamicMap()) : null };
  };
  const storage = tensors.layers.map((layer) => mapValues(layer.linears, storageOf));
  const layout = layOutBase({
    config,
    computeDtype,
    embeddingDtype: embeddingDtypeOf(format),
    maps: maps.length,
    storage: (layer, name) => storage[layer]![name]!,
  });
  return { layout, maps };
}

/** Throws CONFIG_INVALID if the checkpoint is 4-bit already and another format is asked for. */
function chooseFormat(checkpoint: Checkpoint, tensors: BaseTensors, asked: BaseFormat | undefined): BaseFormat {
  const stored = new Set<BaseFormat>();
  for (const { linear } of linearsOf(tensors)) if (linear.weight.kind === "4bit") stored.add(linear.weight.format);
  const [format, other] = [...stored];
  if (format === undefined) return asked ?? "nf4";
  if (other !== undefined)
    throw new QdlError(
      "MODEL_UNSUPPORTED",
      `${checkpoint.name}: weights are ${format} and ${other}, expected one format`,
    );
  if (asked !== undefined && asked !== format)
    throw new QdlError(
      "CONFIG_INVALID",
      `${checkpoint.name}: base format is ${asked}, expected ${format} because the checkpoint is already quantised`,
      { hint: `Leave the format away, or start from the 16-bit model.`, details: { asked, stored: format } },
    );
  return format;
}

interface LinearAt {
  readonly layer: number;
  readonly name: LinearName;
  readonly linear: StoredLinear;
}

function linearsOf(tensors: BaseTensors): LinearAt[] {
  return tensors.layers.flatMap((stored, layer) =>
    Object.entries(stored.linears).map(([name, linear]) => ({ layer, name, linear })),
  );
}

class Loader {
  readonly #backend: Backend;
  readonly #buffer: DeviceBuffer;
  readonly #plan: Plan;
  /** Of the norms' weights. */
  readonly #storedLessOne: boolean;
  readonly #onProgress: ((progress: LoadProgress) => void) | undefined;
  readonly #uploader: Uploader;
  readonly #quantizer: Quantizer;
  /** f32 per linear, 64 bytes apart: offsets of double quantisation, read back in one go. */
  readonly #offsets: DeviceBuffer;
  #doneBytes = 0;
  #totalBytes = 0;

  constructor({ backend, config, onProgress }: LoadBaseOptions, buffer: DeviceBuffer, plan: Plan) {
    this.#backend = backend;
    this.#storedLessOne = config.norm.storedLessOne;
    this.#buffer = buffer;
    this.#plan = plan;
    this.#onProgress = onProgress;
    const reader = new ChunkReader();
    this.#uploader = new Uploader(backend, reader);
    this.#quantizer = new Quantizer(backend, reader);
    const linears = plan.layout.layers.reduce((sum, layer) => sum + Object.keys(layer.linears).length, 0);
    this.#offsets = backend.alloc(linears * OFFSET_STEP, "scale offsets");
  }

  /** Fills the buffer; returns the offsets of double quantisation. */
  async load(tensors: BaseTensors): Promise<Offsets> {
    const { layout, maps } = this.#plan;
    this.#totalBytes = totalBytes(tensors);
    try {
      for (const [i, map] of maps.entries()) this.#backend.write(this.#buffer, layout.maps[i]!.offset, bytesOf(map));
      await this.#floats(tensors.embedding, layout.embedding);
      if (tensors.positions && layout.positions) await this.#floats(tensors.positions, layout.positions);
      if (tensors.head) await this.#floats(tensors.head, layout.head);
      await this.#norm(tensors.finalNorm, layout.finalNorm);
      let index = 0;
      for (const [i, { norms, linears }] of tensors.layers.entries()) {
        const slots = layout.layers[i]!;
        for (const name of keysOf(norms)) await this.#norm(norms[name]!, slots.norms[name]!);
        for (const name of keysOf(linears)) await this.#linear(linears[name]!, slots.linears[name]!, index++);
      }
      await settle(this.#backend, this.#buffer);
      return await this.#readOffsets(tensors);
    } finally {
      this.#uploader.dispose();
      this.#quantizer.dispose();
      this.#offsets.dispose();
    }
  }

  async #floats(tensor: StoredTensor, slot: Slot, added = 0): Promise<void> {
    await this.#uploader.floats(tensor, this.#at(slot), slot.dtype as "bf16" | "f32", added);
    this.#report(tensor.name, tensor.bytes);
  }

  async #norm({ weight, bias }: StoredNorm, slots: NormSlots): Promise<void> {
    await this.#floats(weight, slots.weight, this.#storedLessOne ? 1 : 0);
    if (bias && slots.bias) await this.#floats(bias, slots.bias);
  }

  async #linear(stored: StoredLinear, slots: LinearSlots, index: number): Promise<void> {
    if (stored.bias && slots.bias) await this.#floats(stored.bias, slots.bias);
    const { weight } = stored;
    if (weight.kind === "dense" && "values" in slots.weight) return this.#floats(weight.tensor, slots.weight.values);
    if (weight.kind === "dense") {
      await this.#quantizer.quantize(stored, this.#target(slots.weight, index));
      this.#report(weight.tensor.name, weight.tensor.bytes);
      return;
    }
    await this.#copyFourBit(stored, slots.weight);
  }

  async #copyFourBit({ weight }: StoredLinear, slots: WeightSlots): Promise<void> {
    if (weight.kind !== "4bit" || "values" in slots) throw new TypeError("the layout does not fit the stored weight");
    for (const [tensor, slot] of copiedParts(weight, slots)) {
      await this.#uploader.bytes(tensor, this.#at(slot));
      this.#report(tensor.name, tensor.bytes);
    }
  }

  #target(slots: WeightSlots, index: number): FourBitTarget {
    if ("values" in slots) throw new TypeError("the weight is not to be quantised");
    const at = (slot: Slot) => tensorAt(this.#buffer, slot);
    const { format, scales } = slots;
    if (scales.kind === "plain")
      return { format, codes: at(slots.codes), scales: { kind: "plain", absmax: at(scales.absmax) } };
    const offset = matrix(this.#offsets, "f32", 1, 1, index * OFFSET_STEP);
    const { codes, absmax2, map } = scales;
    return {
      format,
      codes: at(slots.codes),
      scales: { kind: "double", codes: at(codes), absmax2: at(absmax2), map: at(map), offset },
    };
  }

  async #readOffsets(tensors: BaseTensors): Promise<Offsets> {
    const bytes = await this.#backend.read(this.#offsets, 0, this.#offsets.bytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let index = 0;
    return tensors.layers.map(({ linears }) => {
      const entries = Object.entries(linears).map(([name, { weight }]): [LinearName, number] => {
        const computed = view.getFloat32(index++ * OFFSET_STEP, true);
        if (weight.kind === "4bit") return [name, weight.scales.kind === "double" ? weight.scales.offset : 0];
        return [name, computed];
      });
      return new Map(entries);
    });
  }

  #at(slot: Slot) {
    return { buffer: this.#buffer, offset: slot.offset };
  }

  #report(tensor: string, bytes: number): void {
    this.#doneBytes += bytes;
    this.#onProgress?.({ tensor, doneBytes: this.#doneBytes, totalBytes: this.#totalBytes });
  }
}

const OFFSET_STEP = 64;

const keysOf = <K extends string>(record: Readonly<Partial<Record<K, unknown>>>): K[] => Object.keys(record) as K[];

function totalBytes(tensors: BaseTensors): number {
  const { embedding, positions, head, finalNorm, layers } = tensors;
  let bytes = embedding.bytes + (positions?.bytes ?? 0) + (head?.bytes ?? 0);
  for (const { weight, bias } of [finalNorm, ...layers.flatMap(({ norms }) => Object.values(norms))])
    bytes += weight.bytes + (bias?.bytes ?? 0);
  for (const { linear } of linearsOf(tensors)) bytes += (linear.bias?.bytes ?? 0) + weightBytes(linear);
  return bytes;
}

function weightBytes({ weight }: StoredLinear): number {
  if (weight.kind === "dense") return weight.tensor.bytes;
  const { codes, scales } = weight;
  return codes.bytes + (scales.kind === "plain" ? scales.absmax.bytes : scales.codes.bytes + scales.absmax2.bytes);
}
