// Data files as samples in memory, with an account of everything that was left out.

import { QdlError } from "../errors.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import { permutation, randomStream } from "../random/philox.ts";
import { Sha256 } from "../tokenizer/sha256.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { Sample } from "./batch.ts";
import type { Columns } from "./columns.ts";
import { type Example, exampleOf, type LossOn } from "./examples.ts";
import { FaultLog } from "./faults.ts";
import { OverlongFilter, type OverlongPolicy, type OverlongReport } from "./overlong.ts";
import { type Fault, type Place, readRows } from "./rows.ts";

export interface DatasetOptions {
  /** Longest sample, in tokens. */
  readonly seq: number;
  /** Default: completion. */
  readonly lossOn?: LossOn;
  /** Default: error. */
  readonly overlong?: OverlongPolicy;
  /** Leave broken rows out and count them, instead of refusing the data. Default: false. */
  readonly skipBadRows?: boolean;
  /** Which keys of a row mean what; absent: rows have the names that are used here. */
  readonly columns?: Columns;
  /** Stops the reading with INTERRUPTED. */
  readonly signal?: AbortSignal;
}

export interface Dataset {
  /** In the order of the files; ids count from 0. */
  readonly samples: readonly Sample[];
  /** Rows of the files, blank lines not counted. */
  readonly rows: number;
  /** Broken rows left out: all counted, the first thousand kept. */
  readonly skipped: { readonly count: number; readonly rows: readonly Fault[] };
  readonly overlong: OverlongReport;
  /** Samples left out because the loss would look at none of their tokens. */
  readonly unsupervised: { readonly count: number; readonly first: Place | null };
  readonly tokens: number;
  readonly supervisedTokens: number;
  /** Of the samples' tokens and masks: equal if and only if training would see the same data. */
  readonly sha256: string;
}

/**
 * Reads and tokenises whole files. Throws DATA_ROW_INVALID (all broken rows in one error), DATA_OVERLONG, DATA_EMPTY,
 * DATA_UNSUPPORTED, TEMPLATE_MISSING, TOKENIZER_INVALID, CONFIG_INVALID, INTERRUPTED.
 */
export async function loadDataset(
  sources: readonly ByteSource[],
  tokenizer: Tokenizer,
  options: DatasetOptions,
): Promise<Dataset> {
  if (!Number.isInteger(options.seq) || options.seq < 2) {
    throw new QdlError("CONFIG_INVALID", `data: seq is ${options.seq}, expected a whole number of at least 2 tokens`, {
      hint: "A sample needs a token to predict and one to predict it from.",
      details: { seq: options.seq },
    });
  }
  const builder = new Builder(options);
  const breathe = breathing();
  for (const source of sources) {
    for await (const result of readRows(source, options.columns)) {
      await breathe();
      if (options.signal?.aborted === true) {
        throw new QdlError("INTERRUPTED", `data: reading ${source.name} was stopped; nothing was written`);
      }
      builder.rows++;
      if ("reason" in result) {
        builder.faults.add(result);
        continue;
      }
      const example = exampleOf(result.row, tokenizer, options.lossOn ?? "completion");
      const place = { file: result.file, line: result.line };
      if ("reason" in example) builder.faults.add({ ...place, reason: example.reason });
      else builder.add(example, place);
    }
  }
  return builder.finish(sources, options.skipBadRows ?? false);
}

/** The samples' SHA-256: of each one's length, ids and mask, little-endian. */
export function hashSamples(samples: readonly Sample[]): string {
  const sha = new Sha256();
  for (const { tokens, supervised } of samples) {
    const bytes = new Uint8Array(4 + 5 * tokens.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, tokens.length, true);
    for (let i = 0; i < tokens.length; i++) view.setInt32(4 + 4 * i, tokens[i]!, true);
    bytes.set(supervised, 4 + 4 * tokens.length);
    sha.update(bytes);
  }
  return sha.hex();
}

export interface Split {
  readonly train: readonly Sample[];
  readonly heldOut: readonly Sample[];
}

/**
 * Sets rows aside for evaluation: a share of them if `heldOut` is below 1 (rounded, at least one), else that many; 0 for
 * none. Rows are drawn by the seeded permutation called "held-out"; all pieces of a split row go the same way. Both parts
 * keep the order of the files. Throws CONFIG_INVALID, and DATA_EMPTY if nothing is left to train on.
 */
export function splitHeldOut(samples: readonly Sample[], heldOut: number, seed: number): Split {
  const rowOf = rowNumbers(samples);
  const rows = (rowOf.at(-1) ?? -1) + 1;
  const count = heldOutRows(heldOut, rows);
  const drawn = new Set(permutation(randomStream(seed, "held-out"), rows).subarray(0, count));
  return {
    train: samples.filter((_, i) => !drawn.has(rowOf[i]!)),
    heldOut: samples.filter((_, i) => drawn.has(rowOf[i]!)),
  };
}

/** For each sample the number of its row. Pieces of a split row stand next to each other. */
function rowNumbers(samples: readonly Sample[]): number[] {
  let row = -1;
  return samples.map((sample, i) => {
    const before = samples[i - 1];
    if (before === undefined || before.file !== sample.file || before.line !== sample.line) row++;
    return row;
  });
}

function heldOutRows(heldOut: number, rows: number): number {
  if (!(heldOut >= 0) || (heldOut >= 1 && !Number.isInteger(heldOut))) {
    throw new QdlError("CONFIG_INVALID", `data: held-out is ${heldOut}, expected a share below 1 or a whole number`, {
      hint: "0.05 holds out one row in twenty, 500 holds out five hundred.",
      details: { heldOut },
    });
  }
  if (heldOut === 0) return 0;
  const count = heldOut < 1 ? Math.max(1, Math.round(heldOut * rows)) : heldOut;
  if (count < rows) return count;
  throw new QdlError(
    "DATA_EMPTY",
    `data: ${count} of ${rows} rows would be held out, expected fewer because training needs the rest`,
    { hint: "Hold out fewer rows, or give evaluation its own file.", details: { heldOut: count, rows } },
  );
}

/** Milliseconds of tokenising between two turns of the event loop, so that signals and timers are served. */
const TURN_MS = 50;

function breathing(): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last < TURN_MS) return;
    await new Promise((resolve) => setTimeout(resolve, 0));
    last = performance.now();
  };
}

class Builder {
  readonly samples: Sample[] = [];
  readonly faults = new FaultLog();
  rows = 0;
  readonly #overlong: OverlongFilter;
  #unsupervised = 0;
  #firstUnsupervised: Place | null = null;
  #tokens = 0;
  #supervisedTokens = 0;

  constructor(options: DatasetOptions) {
    this.#overlong = new OverlongFilter(options.seq, options.overlong ?? "error");
  }

  add(example: Example, place: Place): void {
    for (const { tokens, supervised } of this.#overlong.apply(example, place)) {
      const targets = supervised.reduce((sum, flag) => sum + flag, 0);
      if (targets === 0) {
        this.#unsupervised++;
        this.#firstUnsupervised ??= place;
        continue;
      }
      this.#tokens += tokens.length;
      this.#supervisedTokens += targets;
      this.samples.push({ id: this.samples.length, ...place, tokens, supervised });
    }
  }

  finish(sources: readonly ByteSource[], skipBadRows: boolean): Dataset {
    if (!skipBadRows && this.faults.count > 0) throw this.faults.error();
    this.#overlong.check();
    const dataset = {
      samples: this.samples,
      rows: this.rows,
      skipped: { count: this.faults.count, rows: this.faults.rows },
      overlong: this.#overlong.report,
      unsupervised: { count: this.#unsupervised, first: this.#firstUnsupervised },
      tokens: this.#tokens,
      supervisedTokens: this.#supervisedTokens,
      sha256: hashSamples(this.samples),
    };
    if (this.samples.length === 0) throw empty(sources, dataset);
    return dataset;
  }
}

function empty(sources: readonly ByteSource[], dataset: Dataset): QdlError {
  const files = sources.map((source) => source.name).join(", ") || "no file";
  const { rows, skipped, unsupervised, overlong } = dataset;
  const dropped = overlong.policy === "drop" ? overlong.count : 0;
  return new QdlError(
    "DATA_EMPTY",
    `data: no usable sample in ${files}: ${rows} rows, of which ${skipped.count} broken, ${dropped} dropped as longer ` +
      `than seq, ${unsupervised.count} without a token to learn, expected at least one`,
    {
      hint:
        unsupervised.count > 0
          ? "Chat rows need an assistant message; or set the loss on all tokens."
          : "Check the path.",
      details: { files, rows, skipped: skipped.count, dropped, unsupervised: unsupervised.count },
    },
  );
}
