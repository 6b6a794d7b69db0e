// Which samples an optimizer step sees, as a pure function of (samples, BatchConfig, seed, step): a resumed run needs no
// more than its step number.
//
// Epoch e takes the samples in the order of the permutation called "data-order/<e>". With packing, that order is packed
// into sequences (packing.ts); without, each sample is a sequence of its own. The epochs' sequences form one endless line
// (epochs.ts), and step s takes those from s·P to (s+1)·P, P = microBatch × accumulation: a step at the end of an epoch
// goes on into the next, so that every step has the same number of sequences, and every sample comes once an epoch.

import { QdlError } from "../errors.ts";
import type { Batch, BatchConfig, Sample } from "./batch.ts";
import { EpochLine } from "./epochs.ts";
import { layOut, targetsOf } from "./layout.ts";

/** Most rows of a micro-batch under these settings, whatever the data. */
export function maxRows(config: BatchConfig): number {
  return config.microBatch * config.seq;
}

/** The batches of a run. Throws CONFIG_INVALID, DATA_EMPTY, DATA_OVERLONG (a sample longer than config.seq). */
export class BatchPlan {
  /** Rows and segments that no micro-batch of this data exceeds, for the memory plan. */
  readonly maxRows: number;
  readonly maxSegments: number;
  readonly #samples: readonly Sample[];
  readonly #targets: Int32Array;
  readonly #config: BatchConfig;
  readonly #line: EpochLine;

  constructor(samples: readonly Sample[], config: BatchConfig, seed: number) {
    checkConfig(config);
    checkSamples(samples, config.seq);
    this.#samples = samples;
    this.#targets = Int32Array.from(samples, targetsOf);
    this.#config = config;
    this.#line = new EpochLine(samples, config, seed);
    const lengths = samples.map((sample) => sample.tokens.length);
    const longest = lengths.reduce((a, b) => Math.max(a, b));
    const shortest = lengths.reduce((a, b) => Math.min(a, b));
    const packed = Math.min(samples.length, Math.floor(config.seq / shortest));
    this.maxRows = config.packing ? maxRows(config) : config.microBatch * longest;
    this.maxSegments = config.microBatch * (config.packing ? packed : 1);
  }

  /** The micro-batches of optimizer step `step`, counted from 0. */
  step(step: number): Batch[] {
    const { microBatch, accumulation } = this.#config;
    const sequences = this.#sequencesOf(step);
    return Array.from({ length: accumulation }, (_, m) => {
      const indexes = sequences.slice(m * microBatch, (m + 1) * microBatch).flat();
      return layOut(indexes.map((index) => this.#samples[index]!));
    });
  }

  /** The targets in all micro-batches of a step, by which its loss is divided. No batch is built for it. */
  supervisedTokens(step: number): number {
    return this.#sequencesOf(step)
      .flat()
      .reduce((sum, index) => sum + this.#targets[index]!, 0);
  }

  /** The least number of steps that shows every sample `epochs` times, a whole number. */
  stepsForEpochs(epochs: number): number {
    return Math.ceil(this.#line.start(epochs) / this.#perStep);
  }

  /** How many epochs are behind after `steps` steps, the running one as a fraction. */
  epochsAfter(steps: number): number {
    const place = steps * this.#perStep;
    const epoch = this.#line.epochAt(place);
    return epoch + (place - this.#line.start(epoch)) / this.#line.sequences(epoch).length;
  }

  get #perStep(): number {
    return this.#config.microBatch * this.#config.accumulation;
  }

  #sequencesOf(step: number) {
    if (!Number.isSafeInteger(step) || step < 0) {
      throw new QdlError("OP_ARGUMENT", `batch plan: step is ${step}, expected a whole number of at least 0`);
    }
    return this.#line.take(step * this.#perStep, this.#perStep);
  }
}

/**
 * All samples once, in order, as many whole ones a batch as fit into `rows` rows and `segments` segments. For evaluation:
 * summed losses do not depend on how samples fall into batches. Throws DATA_OVERLONG for a sample longer than `rows`.
 */
export function evalBatches(samples: readonly Sample[], rows: number, segments = Number.POSITIVE_INFINITY): Batch[] {
  if (samples.length === 0) return [];
  checkSamples(samples, rows);
  const groups: Sample[][] = [];
  let used = Number.POSITIVE_INFINITY;
  for (const sample of samples) {
    if (used + sample.tokens.length > rows || groups.at(-1)!.length >= segments) {
      groups.push([]);
      used = 0;
    }
    groups.at(-1)!.push(sample);
    used += sample.tokens.length;
  }
  return groups.map(layOut);
}

function checkConfig(config: BatchConfig): void {
  for (const key of ["seq", "microBatch", "accumulation"] as const) {
    const value = config[key];
    if (Number.isSafeInteger(value) && value >= 1) continue;
    throw new QdlError("CONFIG_INVALID", `batch.${key}: is ${value}, expected a whole number of at least 1`, {
      hint: "Batches hold at least one sample of at least one token.",
      details: { key: `batch.${key}`, value },
    });
  }
}

function checkSamples(samples: readonly Sample[], limit: number): void {
  if (samples.length === 0) {
    throw new QdlError("DATA_EMPTY", "data: there is no sample, expected at least one", {
      hint: "Check the data files.",
    });
  }
  const long = samples.find((sample) => sample.tokens.length > limit);
  if (long === undefined) return;
  throw new QdlError(
    "DATA_OVERLONG",
    `data: the sample at ${long.file}:${long.line} has ${long.tokens.length} tokens, expected at most ${limit}`,
    {
      hint: "Load the data with the same seq as the batches, or raise seq.",
      details: { file: long.file, line: long.line, tokens: long.tokens.length, limit },
    },
  );
}
