// What the writers of all export formats share: the slice they get, the settings, what they give back.

import type { AdapterManifest } from "../adapter/manifest.ts";
import type { AdapterWeights } from "../adapter/slice.ts";
import type { NodeFolder } from "../formats/node-files.ts";
import type { DTypeRule, OutputDType } from "../formats/output-dtype.ts";
import type { ModelCard } from "../report/model-card.ts";

/** One rank of an adapter, cut and not yet written. */
export interface Slice {
  readonly rank: number;
  readonly weights: AdapterWeights;
  readonly manifest: AdapterManifest;
}

export interface SliceSettings {
  /** Dtype of the weights, or rules by part of a tensor's name. */
  readonly dtype?: OutputDType | readonly DTypeRule[];
}

/** How far merged linears are from W + s·B·A because they were rounded or quantised again. */
export interface MergeError {
  /** As a share of the norm of W + s·B·A over all linears. */
  readonly relative: number;
  /** As a share of the norm of s·B·A: from about 1 on, the adapter's share is lost. */
  readonly ofUpdate: number;
}

/** What a format puts into a folder beside the card. */
export interface WrittenSlice extends Pick<ModelCard, "library" | "holds" | "uses"> {
  /** Bytes of the weights. */
  readonly bytes: number;
  /** Of merged weights. */
  readonly error?: MergeError;
}

/** Writes one slice in one format into a new folder. */
export type SliceWriter<S extends SliceSettings = SliceSettings> = (
  slice: Slice,
  folder: NodeFolder,
  settings: S,
) => Promise<WrittenSlice>;

/** A dtype that was asked for, as rules. */
export function dtypeRules(dtype: SliceSettings["dtype"] = []): readonly DTypeRule[] {
  return typeof dtype === "string" ? [{ part: "", dtype }] : dtype;
}
