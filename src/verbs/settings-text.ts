// Settings and provenance as people read them.

import type { RankDistribution } from "../adapter/config.ts";
import type { AdapterManifest } from "../adapter/manifest.ts";
import { FAMILIES } from "../model/families/index.ts";

/** As the flag is written: `geometric:0.15`. */
export function showDistribution(value: RankDistribution): string {
  switch (value.kind) {
    case "geometric":
      return `geometric:${value.p}`;
    case "mixture":
      return `mixture:${value.share}`;
    case "weights":
      return `weights:${value.weights.join(",")}`;
    default:
      return value.kind;
  }
}

/** The settings that shape a run. */
export function settingsText({ adapter, base, provenance }: AdapterManifest): Record<string, string> {
  const { train } = provenance;
  const all = Object.keys(FAMILIES[base.family].tensors.linears).length;
  const targets = adapter.targets.length === all ? "all linears of the blocks" : adapter.targets.join(", ");
  return {
    "largest rank R": String(adapter.rankMax),
    "ranks evaluated": adapter.ranks.join(", "),
    "rank of a step": adapter.mode === "fixed" ? `always ${adapter.rankMax}` : showDistribution(adapter.distribution),
    "rows that learn": { dylora: "all below the rank drawn", frozen: "the last of the rank drawn", fixed: "all" }[
      adapter.mode
    ],
    "scale of rank b": adapter.scaleRule === "one" ? "1" : `${adapter.scaleRule}, alpha ${adapter.alpha}`,
    adapters: targets,
    ...(train
      ? {
          "learning rate": `${train.optimizer.learningRate}, ${train.schedule.kind}, warm-up ${train.schedule.warmupSteps} steps`,
          steps: `${train.schedule.steps} of ${train.batch.microBatch * train.batch.accumulation} samples`,
          "gradient clipping": train.optimizer.maxGradNorm === 0 ? "none" : String(train.optimizer.maxGradNorm),
        }
      : {}),
  };
}

/** Where an adapter comes from. */
export function provenanceText({ base, provenance }: AdapterManifest): Record<string, string> {
  return {
    base: `${base.name}${base.revision ? ` at ${base.revision}` : ""}, ${base.format}${base.doubleQuant ? " with double quantisation" : ""}`,
    "base weights (SHA-256)": base.sha256,
    ...(provenance.dataSha256 === null
      ? {}
      : { "training data (SHA-256)": provenance.dataSha256, seed: String(provenance.seed) }),
    ...(provenance.madeFrom
      ? { "made from": `${provenance.madeFrom.name} (SHA-256 ${provenance.madeFrom.sha256})` }
      : {}),
    device: provenance.device,
    qdylora: provenance.qdylora,
    node: provenance.node,
  };
}
