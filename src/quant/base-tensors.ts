// Which stored tensor is what: the checkpoint's names and shapes against the config, all checked before a byte of weights
// is read or a byte of the device is taken. Whether a linear is already 4-bit is decided per tensor, by its quantisation state.

import { QdlError } from "../errors.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { isFloat } from "../formats/float-convert.ts";
import type { StoredTensor } from "../formats/safetensors.ts";
import {
  type LinearName,
  type LinearOptions,
  type ModelConfig,
  type NormName,
  type NormOptions,
  normWidth,
} from "../model/config.ts";
import type { TensorNames } from "../model/families/family.ts";
import { FAMILIES } from "../model/families/index.ts";
import { mapValues } from "./base-layout.ts";
import { findQuantState, readStoredFourBit, type StoredFourBit } from "./bitsandbytes.ts";
import { dequantisedTensor } from "./dequantised-tensor.ts";
import { transposedTensor } from "./transposed-tensor.ts";

export type StoredWeight = { readonly kind: "dense"; readonly tensor: StoredTensor } | StoredFourBit;

export interface StoredLinear {
  /** Module path: "model.layers.0.self_attn.q_proj". */
  readonly path: string;
  /** M, out-features; K, in-features. */
  readonly rows: number;
  readonly cols: number;
  /** [M, K], read transposed where it is stored [K, M]. */
  readonly weight: StoredWeight;
  readonly transposed: boolean;
  /** [M], or null. */
  readonly bias: StoredTensor | null;
}

export interface StoredNorm {
  /** Module path: "model.norm". */
  readonly path: string;
  readonly weight: StoredTensor;
  readonly bias: StoredTensor | null;
}

export interface StoredLayer {
  readonly norms: Readonly<Partial<Record<NormName, StoredNorm>>>;
  readonly linears: Readonly<Record<LinearName, StoredLinear>>;
}

/** Every tensor of a base, found and of the right shape and dtype. */
export interface BaseTensors {
  readonly embedding: StoredTensor;
  /** null: positions are not learned. */
  readonly positions: StoredTensor | null;
  /** null when tied. */
  readonly head: StoredTensor | null;
  readonly finalNorm: StoredNorm;
  readonly layers: readonly StoredLayer[];
}

/**
 * Finds the base's tensors. All missing ones are reported together, as are all of a wrong shape.
 * Throws TENSOR_MISSING, TENSOR_SHAPE, TENSOR_DTYPE, MODEL_CONFIG_INVALID (a bias that the config denies),
 * QUANT_STATE_INVALID.
 */
export async function findBaseTensors(checkpoint: Checkpoint, config: ModelConfig): Promise<BaseTensors> {
  const names = FAMILIES[config.family].tensors;
  const finder = new Finder(checkpoint);
  const { vocabulary, hidden } = config;
  const embedding = finder.dense(`${names.embedding}.weight`, [vocabulary, hidden]);
  const positions =
    config.learnedPositions && names.positions
      ? finder.dense(`${names.positions}.weight`, [config.maxPositions, hidden])
      : null;
  const finalNorm = finder.norm(names.finalNorm, hidden, config.norm);
  const head = config.tiedEmbeddings ? null : await finder.head(`${names.head}.weight`, vocabulary, hidden);
  const layers: StoredLayer[] = [];
  for (let i = 0; i < config.layers; i++) layers.push(await findLayer(finder, config, names, i));
  finder.throwIfProblems();
  return { embedding, positions, head, finalNorm, layers };
}

async function findLayer(finder: Finder, config: ModelConfig, names: TensorNames, layer: number): Promise<StoredLayer> {
  const inLayer = (module: string): string => `${names.layers}.${layer}.${module}`;
  const linears: Record<LinearName, StoredLinear> = {};
  for (const options of config.block.linears) {
    const path = inLayer(names.linears[options.name]!);
    linears[options.name] = {
      path,
      rows: options.out,
      cols: options.in,
      transposed: names.transposed ?? false,
      ...(await finder.linear(path, options, names.transposed ?? false)),
    };
  }
  const norm = (module: string, name: NormName) => finder.norm(inLayer(module), normWidth(config, name), config.norm);
  return { norms: mapValues(config.block.norms, norm), linears };
}

class Finder {
  readonly #checkpoint: Checkpoint;
  readonly #missing: string[] = [];
  readonly #misshapen: string[] = [];
  readonly #mistyped: string[] = [];

  constructor(checkpoint: Checkpoint) {
    this.#checkpoint = checkpoint;
  }

  /** A tensor of floats. A problem is noted, and what is returned then is never used: `throwIfProblems` throws. */
  dense(name: string, shape: readonly number[]): StoredTensor {
    if (this.#checkpoint.find(name) === null) {
      this.#missing.push(name);
      return ABSENT;
    }
    const tensor = this.#checkpoint.tensor(name);
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i]))
      this.#misshapen.push(`${name} is [${tensor.shape.join(", ")}], expected [${shape.join(", ")}]`);
    if (!isFloat(tensor.dtype)) this.#mistyped.push(`${name} is ${tensor.dtype}, expected F64, F32, F16 or BF16`);
    return tensor;
  }

  /** A head may be 4-bit in the file; a base holds it in 16 bit. */
  async head(name: string, rows: number, cols: number): Promise<StoredTensor> {
    const state = findQuantState(this.#checkpoint, name);
    if (!state) return this.dense(name, [rows, cols]);
    const weight = await readStoredFourBit(this.#checkpoint, state, rows, cols);
    return dequantisedTensor(name, { rows, cols }, weight);
  }

  norm(module: string, cols: number, { kind }: NormOptions): StoredNorm {
    const bias = kind === "layer" ? this.dense(`${module}.bias`, [cols]) : null;
    return { path: module, weight: this.dense(`${module}.weight`, [cols]), bias };
  }

  async linear(
    module: string,
    { in: cols, out: rows, bias: hasBias }: LinearOptions,
    isTransposed: boolean,
  ): Promise<{ weight: StoredWeight; bias: StoredTensor | null }> {
    const state = findQuantState(this.#checkpoint, `${module}.weight`);
    const weight: StoredWeight = state
      ? await readStoredFourBit(this.#checkpoint, state, rows, cols)
      : { kind: "dense", tensor: this.#weight(`${module}.weight`, rows, cols, isTransposed) };
    const bias = `${module}.bias`;
    if (!hasBias && this.#checkpoint.find(bias) !== null)
      throw new QdlError(
        "MODEL_CONFIG_INVALID",
        `${this.#checkpoint.name}: tensor ${bias} is stored, but config.json says that there is no such bias`,
        { hint: "Set attention_bias or mlp_bias in config.json as the model has them.", details: { tensor: bias } },
      );
    return { weight, bias: hasBias ? this.dense(bias, [rows]) : null };
  }

  #weight(name: string, rows: number, cols: number, isTransposed: boolean): StoredTensor {
    if (!isTransposed) return this.dense(name, [rows, cols]);
    return transposedTensor(this.dense(name, [cols, rows]));
  }

  throwIfProblems(): void {
    const { name } = this.#checkpoint;
    if (this.#missing.length > 0)
      throw new QdlError("TENSOR_MISSING", `${name}: ${listed(this.#missing)} not in the checkpoint`, {
        hint: "The checkpoint is incomplete, or config.json describes another model.",
        details: { path: name, tensors: this.#missing },
      });
    if (this.#misshapen.length > 0)
      throw new QdlError("TENSOR_SHAPE", `${name}: ${listed(this.#misshapen)} because of the sizes in config.json`, {
        hint: "config.json and weights are of different models.",
        details: { path: name, tensors: this.#misshapen },
      });
    if (this.#mistyped.length > 0)
      throw new QdlError("TENSOR_DTYPE", `${name}: ${listed(this.#mistyped)}`, {
        hint: "Use the model in 16 or 32 bit, or in the 4-bit layout of bitsandbytes.",
        details: { path: name, tensors: this.#mistyped },
      });
  }
}

const ABSENT: StoredTensor = {
  name: "absent",
  file: "absent",
  dtype: "F32",
  shape: [],
  bytes: 0,
  read: () => Promise.reject(new QdlError("TENSOR_MISSING", "an absent tensor was read")),
};

/** At most eight entries, then a count. */
function listed(entries: readonly string[]): string {
  const shown = entries.slice(0, 8).join("; ");
  return entries.length > 8 ? `${shown}; and ${entries.length - 8} more` : shown;
}
