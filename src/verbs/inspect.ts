// inspect: what is in a model folder or GGUF file, an adapter folder, a safetensors file, or data as the model will see it.

import { stat } from "node:fs/promises";
import { MANIFEST, readAdapter } from "../adapter/file.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { expectedUpdates } from "../adapter/rank-draw.ts";
import { type InspectedSample, inspectSample } from "../data/inspect.ts";
import type { GgufCheckpoint } from "../formats/gguf-model.ts";
import { isGgufFile } from "../formats/locate-model.ts";
import { openFile, openFolder } from "../formats/node-files.ts";
import { openSafetensors } from "../formats/safetensors.ts";
import type { ModelConfig } from "../model/config.ts";
import type { DownloadSettings } from "./locate-model.ts";
import { openModelFiles } from "./open-model.ts";
import { throwProblems } from "./problems.ts";
import { type DataNames, readData } from "./read-data.ts";
import { columnProblems, type DataSettings, TRAIN_DEFAULTS } from "./train-options.ts";

export interface InspectOptions
  extends DownloadSettings,
    Partial<Pick<DataSettings, "overlong" | "lossOn" | "skipBadRows" | "columns">> {
  /** A model folder or GGUF file, an adapter folder or a safetensors file. */
  readonly path?: string;
  /** Data to show token by token, as `model` will see it. */
  readonly data?: DataNames;
  /** The model whose tokenizer and template `data` goes through. */
  readonly model?: string;
  /** Samples to show. Default: 3. */
  readonly limit?: number;
  readonly seq?: number;
}

export interface StoredTensorInfo {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

export type Inspection =
  | {
      readonly kind: "model";
      readonly path: string;
      readonly config: ModelConfig;
      readonly files: readonly string[];
      readonly parameters: number;
      readonly tensors: readonly StoredTensorInfo[];
    }
  | {
      readonly kind: "adapter";
      readonly path: string;
      readonly manifest: AdapterManifest;
      /** Expected number of updates of each row over the run, row 0 first; null for an imported adapter. */
      readonly expectedUpdates: readonly number[] | null;
    }
  | { readonly kind: "safetensors"; readonly path: string; readonly tensors: readonly StoredTensorInfo[] }
  | {
      readonly kind: "data";
      readonly rows: number;
      readonly samples: number;
      readonly skippedRows: number;
      readonly tokens: number;
      readonly supervisedTokens: number;
      readonly longest: number;
      readonly sha256: string;
      readonly shown: readonly InspectedSample[];
    };

/** Throws CONFIG_INVALID (nothing to inspect), FILE_NOT_FOUND, and what reading the thing throws. */
export async function inspect(options: InspectOptions): Promise<Inspection> {
  if (options.data !== undefined) return inspectData(options, options.data);
  if (options.path === undefined)
    throwProblems("inspect", [
      {
        key: "path",
        path: "PATH",
        expected: "a model folder, a .gguf file, an adapter folder, a .safetensors file, or --data with --model",
      },
    ]);
  const path = options.path!;
  const info = await stat(path).catch(() => null);
  if (info?.isFile() && !(await isGgufFile(path))) return { kind: "safetensors", path, tensors: await tensorsOf(path) };
  if (info?.isDirectory() && (await isAdapter(path))) return inspectAdapter(path);
  return inspectModel(path, options);
}

const isAdapter = async (path: string): Promise<boolean> => (await openFolder(path)).exists(MANIFEST);

async function tensorsOf(path: string): Promise<StoredTensorInfo[]> {
  const file = await openSafetensors(await openFile(path));
  try {
    return file.names.map((name) => file.tensor(name)).map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  } finally {
    await file.close();
  }
}

async function inspectAdapter(path: string): Promise<Inspection> {
  const { manifest } = await readAdapter(await openFolder(path));
  const { train } = manifest.provenance;
  const updates = train ? [...expectedUpdates(train.adapter, train.schedule.steps)] : null;
  return { kind: "adapter", path, manifest, expectedUpdates: updates };
}

async function inspectModel(path: string, options: DownloadSettings): Promise<Inspection> {
  await using files = await openModelFiles(path, options);
  const { checkpoint, config, located } = files;
  const { types } = checkpoint as Partial<GgufCheckpoint>;
  const tensors = checkpoint.tensorNames.map((name) => {
    const { dtype, shape } = checkpoint.tensor(name);
    return { name, dtype: types?.get(name) ?? dtype, shape };
  });
  const parameters = tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  return { kind: "model", path: located.name, config, files: checkpoint.weightFiles, parameters, tensors };
}

async function inspectData(options: InspectOptions, data: DataNames): Promise<Inspection> {
  if (options.model === undefined)
    throwProblems("inspect", [
      {
        key: "model",
        path: "--model",
        expected: "a model folder or a hub id",
        because: "the tokens of data are those of a model",
      },
    ]);
  await using files = await openModelFiles(options.model!, options);
  const {
    overlong = "error",
    lossOn = "completion",
    skipBadRows = false,
    seq = TRAIN_DEFAULTS.seq,
    limit = 3,
  } = options;
  throwProblems("inspect", columnProblems(options.columns));
  const columns = options.columns ? { columns: options.columns } : {};
  const dataset = await readData(data, files.tokenizer, { seq, overlong, lossOn, skipBadRows, ...columns });
  return {
    kind: "data",
    rows: dataset.rows,
    samples: dataset.samples.length,
    skippedRows: dataset.skipped.count,
    tokens: dataset.tokens,
    supervisedTokens: dataset.supervisedTokens,
    longest: dataset.samples.reduce((most, { tokens }) => Math.max(most, tokens.length), 0),
    sha256: dataset.sha256,
    shown: dataset.samples.slice(0, limit).map((sample) => inspectSample(sample, files.tokenizer)),
  };
}
