// quantize: a model folder with 4-bit linears, in the layout of bitsandbytes.

import { createFolder } from "../formats/node-files.ts";
import { quantizeCheckpoint } from "../quant/quantize-checkpoint.ts";
import type { DownloadSettings } from "./locate-model.ts";
import { type DeviceSettings, openDevice } from "./open-device.ts";
import { openModelFiles } from "./open-model.ts";

export interface QuantizeOptions extends DeviceSettings, DownloadSettings {
  /** A folder, or a hub id. */
  readonly model: string;
  /** Folder to write. */
  readonly output: string;
  /** Default: nf4. */
  readonly baseFormat?: "nf4" | "fp4";
  /** Hears of each tensor that is done. */
  readonly onProgress?: (progress: { readonly doneBytes: number; readonly totalBytes: number }) => void;
}

export interface Quantized {
  readonly output: string;
  /** Bytes of the weights before and after. */
  readonly sourceBytes: number;
  readonly bytes: number;
  readonly files: readonly string[];
}

/** Throws FILE_EXISTS (the output is not empty), CONFIG_INVALID (quantised already), WRITE_FAILED, and what opening the model throws. */
export async function quantize(options: QuantizeOptions): Promise<Quantized> {
  await using files = await openModelFiles(options.model, options);
  await using backend = await openDevice(options);
  const { checkpoint, config } = files;
  const { baseFormat: format, onProgress } = options;
  const result = await createFolder(options.output, (output) =>
    quantizeCheckpoint({ checkpoint, config, backend, output, format, onProgress }),
  );
  return { output: options.output, ...result };
}
