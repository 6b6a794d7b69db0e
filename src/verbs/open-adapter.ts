// An adapter folder together with the base it fits, on a device.

import { checkFits, readAdapter } from "../adapter/file.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { Adapter } from "../adapter/parameters.ts";
import { checkRank } from "../adapter/slice.ts";
import { openFolder } from "../formats/node-files.ts";
import type { BaseIdentity } from "../model/frozen-model.ts";
import { BUNDLED_BASE_NAME } from "./bundled.ts";
import { type ModelSettings, type OpenBase, openBase, openModelFiles } from "./open-model.ts";
import { throwProblems } from "./problems.ts";

export interface AdapterSettings extends Omit<ModelSettings, "model"> {
  /** The adapter's folder. */
  readonly adapter: string;
  /** The base. Default: the hub id that the adapter remembers, or the bundled base. */
  readonly model?: string;
  /** Use the adapter although it was trained on another base. */
  readonly forceBase?: boolean;
}

export interface OpenAdapter extends AsyncDisposable {
  readonly base: OpenBase;
  readonly adapter: Adapter;
  readonly manifest: AdapterManifest;
}

/** Throws ADAPTER_INVALID, ADAPTER_BASE_MISMATCH, CONFIG_INVALID (no base named), and what opening a base throws. */
export async function openAdapter(settings: AdapterSettings): Promise<OpenAdapter> {
  const stored = await readAdapter(await openFolder(settings.adapter));
  const { manifest, weights } = stored;
  await using files = await openModelFiles(settings.model ?? rememberedBase(manifest.base), settings);
  const base = await openBase(files, { baseFormat: manifest.base.format, ...settings });
  try {
    checkFits(stored, base.model.config, base.model.identity, settings.forceBase ?? false);
    const adapter = new Adapter(base.backend, base.model.config, manifest.adapter, base.model.computeDtype, null);
    adapter.load(weights.tensors);
    const dispose = async (): Promise<void> => {
      adapter[Symbol.dispose]();
      await base[Symbol.asyncDispose]();
    };
    return { base, adapter, manifest, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await base[Symbol.asyncDispose]();
    throw error;
  }
}

/** A rank that was asked for, or the largest. Throws RANK_OUT_OF_RANGE; 0 is the base alone. */
export function rankOrLargest(rank: number | undefined, rankMax: number): number {
  if (rank !== undefined && rank !== 0) checkRank(rank, rankMax);
  return rank ?? rankMax;
}

/** The base that an adapter was trained on, as a user would name it. Throws CONFIG_INVALID if it has no hub id. */
export function rememberedBase(base: BaseIdentity): string {
  if (base.name === BUNDLED_BASE_NAME) return base.name;
  if (base.name.includes("/")) return base.revision ? `${base.name}@${base.revision}` : base.name;
  throwProblems("adapter", [
    {
      key: "model",
      path: "--model",
      expected: `the folder or file of the base "${base.name}"`,
      because: "an adapter remembers no paths",
      hint: "Name the base with --model.",
    },
  ]);
  throw new TypeError("unreachable");
}
