// From what a user calls a model to a frozen base on a device, with its tokenizer.

import type { Backend } from "../backends/backend.ts";
import { type Checkpoint, openCheckpoint } from "../formats/checkpoint.ts";
import { openGgufModel } from "../formats/gguf-model.ts";
import type { LocatedModel } from "../formats/locate-model.ts";
import { sha256InBackground } from "../formats/node-sha256.ts";
import type { ModelConfig } from "../model/config.ts";
import type { BaseIdentity, FrozenModel } from "../model/frozen-model.ts";
import { parseModelConfig } from "../model/read-config.ts";
import type { BaseFormat } from "../ops/frozen-weight.ts";
import { type GivenIdentity, heldFormat, type LoadProgress, loadBase } from "../quant/load-base.ts";
import { readTokenizer } from "../tokenizer/read.ts";
import { checkVocabulary, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { type DownloadSettings, locateModel } from "./locate-model.ts";
import { type DeviceSettings, openDevice } from "./open-device.ts";

export interface ModelSettings extends DeviceSettings, DownloadSettings {
  /** A folder, a GGUF file, or a hub id (`owner/name` or `owner/name@revision`). */
  readonly model: string;
  /** Format in which the base is held. Default: nf4, or as stored if it is 4-bit already. */
  readonly baseFormat?: BaseFormat;
  /** Dtype of activations. Default: auto, the fastest of the device. */
  readonly compute?: "auto" | "bf16" | "f32";
  /** Hears of each tensor of the base that is loaded. */
  readonly onLoad?: (progress: LoadProgress) => void;
}

/** A model's files, opened and checked; no weight is read yet. */
export interface ModelFiles extends AsyncDisposable {
  readonly located: LocatedModel;
  readonly checkpoint: Checkpoint;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
}

/** Throws FILE_NOT_FOUND, MODEL_CONFIG_INVALID, MODEL_UNSUPPORTED, SAFETENSORS_INVALID, GGUF_INVALID, TOKENIZER_INVALID, VOCABULARY_MISMATCH. */
export async function openModelFiles(model: string, settings: DownloadSettings = {}): Promise<ModelFiles> {
  const located = await locateModel(model, settings);
  const checkpoint = await openLocated(located);
  try {
    const config = parseModelConfig(checkpoint.configJson, `${checkpoint.name}/config.json`);
    const tokenizer = await readTokenizer(checkpoint.folder);
    checkVocabulary(tokenizer, config.vocabulary);
    return { located, checkpoint, config, tokenizer, [Symbol.asyncDispose]: () => checkpoint.close() };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

const openLocated = async ({ folder, ggufFile }: LocatedModel): Promise<Checkpoint> =>
  ggufFile === null ? openCheckpoint(folder) : openGgufModel(await folder.open(ggufFile), ggufFile);

/** A base on a device. Disposing it releases both. */
export interface OpenBase extends AsyncDisposable {
  readonly backend: Backend;
  readonly model: FrozenModel;
  readonly tokenizer: Tokenizer;
}

/** Opens the device and loads the base onto it. Throws what `openDevice` and `loadBase` throw. */
export async function openBase(files: ModelFiles, settings: Omit<ModelSettings, "model">): Promise<OpenBase> {
  const backend = await openDevice(settings);
  const hashing = new AbortController();
  try {
    const { checkpoint, config, tokenizer } = files;
    const compute = settings.compute ?? "auto";
    const identity = identityOf(files, hashing.signal);
    // Its failure is the loader's to report, unless loading fails before.
    identity.catch(() => {});
    const model = await loadBase({
      checkpoint,
      config,
      backend,
      identity,
      format: settings.baseFormat,
      computeDtype: compute === "auto" ? undefined : compute,
      onProgress: settings.onLoad,
    });
    const dispose = async (): Promise<void> => {
      model.dispose();
      await backend[Symbol.asyncDispose]();
    };
    return { backend, model, tokenizer, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    hashing.abort();
    await backend[Symbol.asyncDispose]();
    throw error;
  }
}

/** What an adapter for this model remembers of it, without loading it. Throws as `loadBase` does before it reads weights. */
export async function identifyBase(files: ModelFiles, format?: BaseFormat): Promise<BaseIdentity> {
  const { checkpoint, config } = files;
  const held = await heldFormat({ checkpoint, config, format });
  return { ...(await identityOf(files, new AbortController().signal)), ...held };
}

/** Hashing the weights takes about as long as loading them, and goes on beside it. */
async function identityOf({ located, checkpoint, tokenizer }: ModelFiles, signal: AbortSignal): Promise<GivenIdentity> {
  const { name, revision, folder } = located;
  return {
    name,
    revision,
    sha256: await sha256InBackground(folder, checkpoint.weightFiles, signal),
    templateSha256: tokenizer.templateSha256,
  };
}
