// The public surface of qdylora, grouped by verb. Everything else is internal.

export type { RankDistribution, ScaleRule, TrainingMode } from "./adapter/config.ts";
export type { AdapterManifest } from "./adapter/manifest.ts";
// errors
export { ERROR_CODES, type ErrorCode, QdlError } from "./errors.ts";
export { type Estimate as ScoreEstimate, editDistance, type MetricName, measure } from "./eval/task-metrics.ts";
// slice
export type { DTypeRule, OutputDType } from "./formats/output-dtype.ts";
export type { BaseError } from "./quant/base-error.ts";
export { reportHtml } from "./report/html.ts";
export type { Report, ReportRank, ReportSample, ReportStep } from "./report/report.ts";
export type { ChatMessage } from "./tokenizer/template.ts";
export type { RankScore, TrainEvent } from "./train/events.ts";
// bench
export { benchGenerate, type GenerateBench } from "./verbs/bench-generate.ts";
export { benchOps, type OpBench } from "./verbs/bench-ops.ts";
export type { BenchSettings } from "./verbs/bench-settings.ts";
export { benchTrain, type TrainBench } from "./verbs/bench-train.ts";
export { bundledBase, bundledData } from "./verbs/bundled.ts";
// compress
export { type Compressed, type CompressedRank, type CompressOptions, compress } from "./verbs/compress.ts";
// convert
export { type Converted, type ConvertOptions, convert } from "./verbs/convert.ts";
export { type Diagnosis, doctor, type Finding } from "./verbs/doctor.ts";
export { type Estimate, type EstimateOptions, estimate } from "./verbs/estimate.ts";
// evaluate
export { type EvaluateOptions, evaluate } from "./verbs/evaluate.ts";
export { type Exported, type ExportedRank, type ExportOptions, exportAdapter } from "./verbs/export-adapter.ts";
// generate
export {
  type Generated,
  type GenerateOptions,
  generate,
  openSpeaker,
  type SamplingSettings,
  type Speaker,
  type SpeakerSettings,
} from "./verbs/generate.ts";
// inspect
export { type Inspection, type InspectOptions, inspect } from "./verbs/inspect.ts";
// quantize
export { type Quantized, type QuantizeOptions, quantize } from "./verbs/quantize.ts";
export {
  QUICKSTART_PRESET,
  type QuickstartOptions,
  type QuickstartResult,
  quickstart,
} from "./verbs/quickstart.ts";

// train
export { type TrainOptions, type TrainResult, train } from "./verbs/train.ts";
export {
  type DataSettings,
  TRAIN_DEFAULTS,
  type TrainSettings,
} from "./verbs/train-options.ts";
export { version } from "./verbs/version.ts";
