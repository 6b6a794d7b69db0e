// The decoding engine: token ids in, logits out. It keeps the keys and values of several sequences and runs any mixture of
// prompt and decode tokens of them in one pass, each sequence at its own rank. It knows no text, no sampling, no requests.

import { type AdapterConfig, scaleAt } from "../adapter/config.ts";
import type { Backend } from "../backends/backend.ts";
import { QdlError } from "../errors.ts";
import { type AdapterParameters, NO_ADAPTER } from "../model/adapter-parameters.ts";
import { RANGES } from "../model/blocks/linear-group.ts";
import type { FrozenModel } from "../model/frozen-model.ts";
import type { Shape, Value } from "../model/graph.ts";
import { largestRuntime } from "../model/memory-plan.ts";
import { Program, planProgram } from "../model/program.ts";
import { ropeFrequencies } from "../model/rope-frequencies.ts";
import { type DecodingList, decodingList, type LayerCache } from "../model/steps.ts";
import type { RankRange } from "../ops/rank-range.ts";
import { BYTES_PER_ELEMENT } from "../tensor/dtype.ts";
import { type DeviceBuffer, matrix } from "../tensor/tensor.ts";

export interface EngineOptions {
  readonly backend: Backend;
  readonly model: FrozenModel;
  /** null: the base alone. */
  readonly adapter: (AdapterParameters & { readonly config: AdapterConfig }) | null;
  /** Sequences held at a time. */
  readonly sequences: number;
  /** Longest sequence in tokens, prompt included. */
  readonly maxLength: number;
  /** Most tokens in one pass; longer prompts are fed in pieces. */
  readonly maxRows: number;
}

/** Tokens that follow what a sequence already holds. */
export interface Extension {
  readonly sequence: number;
  readonly tokens: Int32Array;
  /** 0: the base alone. */
  readonly rank: number;
}

export class Engine implements Disposable {
  readonly maxLength: number;
  readonly sequences: number;
  readonly #options: EngineOptions;
  readonly #lengths: Int32Array;
  readonly #cache: DeviceBuffer;
  readonly #list: DecodingList;
  readonly #program: Program;

  /** Allocates caches and arena. Throws MEMORY_EXCEEDED. */
  constructor(options: EngineOptions) {
    const { backend, model, sequences, maxLength, maxRows } = options;
    const { learnedPositions, maxPositions, architecture } = model.config;
    if (learnedPositions && maxLength > maxPositions)
      throw new QdlError(
        "OP_ARGUMENT",
        `engine: maxLength is ${maxLength}, expected at most ${maxPositions}, the positions that ${architecture} has learned`,
      );
    this.#options = options;
    this.maxLength = maxLength;
    this.sequences = sequences;
    this.#lengths = new Int32Array(sequences);
    const { layers, kvHeads, headDim } = model.config;
    const cols = kvHeads * headDim;
    const one = sequences * maxLength * cols * BYTES_PER_ELEMENT[model.computeDtype];
    this.#cache = backend.alloc(2 * layers * one, "key/value cache");
    const view = (index: number) => matrix(this.#cache, model.computeDtype, sequences * maxLength, cols, index * one);
    const caches: LayerCache[] = Array.from({ length: layers }, (_, layer) => ({
      keys: view(2 * layer),
      values: view(2 * layer + 1),
    }));
    const adapter = options.adapter ?? NO_ADAPTER;
    this.#list = decodingList(model, adapter, caches);
    const shape: Shape = { N: maxRows, S: 0, Q: Math.min(maxRows, sequences) };
    const pinned = new Set([...Object.values<Value | readonly Value[]>(this.#list.inputs).flat(), this.#list.logits]);
    const arena = planProgram(backend, this.#list.calls, pinned, shape, largestRuntime(adapter, shape));
    this.#program = new Program(backend, this.#list.calls, arena, shape, "decoding arena");
    for (const [i, rope] of model.config.ropes.entries())
      this.#program.write(this.#list.inputs.frequencies[i]!, ropeFrequencies(rope, maxLength));
  }

  /** Tokens that a sequence holds. */
  length(sequence: number): number {
    return this.#lengths[sequence]!;
  }

  /** Forgets a sequence, or all but its first `length` tokens. */
  reset(sequence: number, length = 0): void {
    this.#lengths[sequence] = Math.min(this.#lengths[sequence]!, length);
  }

  /**
   * Appends each extension to its sequence; returns the logits, f32 [V], that follow the last token of each, in order.
   * Throws OP_ARGUMENT if a sequence would grow beyond `maxLength`, or is named twice.
   */
  async extend(extensions: readonly Extension[]): Promise<Float32Array[]> {
    this.#check(extensions);
    const logits: Float32Array[] = [];
    for (const pass of this.#passes(extensions)) {
      const results = await this.#run(pass);
      results.forEach((result, i) => {
        if (pass[i]!.last) logits[pass[i]!.index] = result;
      });
    }
    return logits;
  }

  [Symbol.dispose](): void {
    this.#program[Symbol.dispose]();
    this.#cache.dispose();
  }

  #check(extensions: readonly Extension[]): void {
    const seen = new Set<number>();
    for (const { sequence, tokens } of extensions) {
      const length = this.#lengths[sequence];
      if (length === undefined || seen.has(sequence))
        throw new QdlError(
          "OP_ARGUMENT",
          `engine: sequence ${sequence} is unknown or named twice, expected 0..${this.sequences - 1} once`,
        );
      seen.add(sequence);
      if (tokens.length === 0 || length + tokens.length > this.maxLength)
        throw new QdlError(
          "OP_ARGUMENT",
          `engine: ${tokens.length} tokens after ${length} do not fit a sequence of at most ${this.maxLength}`,
        );
    }
  }

  /** Cuts the work into passes of at most `maxRows` tokens. */
  #passes(extensions: readonly Extension[]): Piece[][] {
    const { maxRows } = this.#options;
    const passes: Piece[][] = [];
    let current: Piece[] = [];
    let room = maxRows;
    const flush = (): void => {
      if (current.length > 0) passes.push(current);
      current = [];
      room = maxRows;
    };
    extensions.forEach(({ sequence, tokens, rank }, index) => {
      let from = 0;
      while (from < tokens.length) {
        if (room === 0) flush();
        const to = Math.min(tokens.length, from + room);
        current.push({ index, sequence, rank, tokens: tokens.subarray(from, to), last: to === tokens.length });
        room -= to - from;
        from = to;
      }
    });
    flush();
    return passes;
  }

  /** One pass: logits after the last token of each piece. */
  async #run(pieces: readonly Piece[]): Promise<Float32Array[]> {
    const { backend, model } = this.#options;
    const rows = pieces.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const shape: Shape = { N: rows, S: 0, Q: pieces.length };
    this.#writeInputs(pieces, rows);
    this.#program.run(shape, { [RANGES.key]: this.#ranges(pieces) });
    for (const { sequence, tokens } of pieces) this.#lengths[sequence]! += tokens.length;
    const { buffer, offset } = this.#program.tensor(this.#list.logits, shape);
    const { vocabulary: V, logitSoftCap: cap } = model.config;
    const bytes = await backend.read(buffer, offset, pieces.length * V * 4);
    const all = new Float32Array(bytes.buffer, bytes.byteOffset, pieces.length * V);
    if (cap !== null) for (let i = 0; i < all.length; i++) all[i] = cap * Math.tanh(all[i]! / cap);
    return pieces.map((_, i) => all.subarray(i * V, (i + 1) * V));
  }

  #writeInputs(pieces: readonly Piece[], rows: number): void {
    const column = (): Int32Array => new Int32Array(rows);
    const [tokens, positions, cacheRows, slots, lengths] = [column(), column(), column(), column(), column()];
    const picks = new Int32Array(pieces.length);
    let row = 0;
    pieces.forEach((piece, i) => {
      const slot = piece.sequence * this.maxLength;
      let position = this.#lengths[piece.sequence]!;
      for (const token of piece.tokens) {
        tokens[row] = token;
        positions[row] = position;
        cacheRows[row] = slot + position;
        slots[row] = slot;
        lengths[row] = ++position;
        row++;
      }
      picks[i] = row - 1;
    });
    const { inputs } = this.#list;
    for (const [value, content] of [
      [inputs.tokens, tokens],
      [inputs.positions, positions],
      [inputs.cacheRows, cacheRows],
      [inputs.slots, slots],
      [inputs.lengths, lengths],
      [inputs.picks, picks],
    ] as const)
      this.#program.write(value, content);
  }

  /** Neighbouring pieces of equal rank share a range. */
  #ranges(pieces: readonly Piece[]): RankRange[] {
    const { adapter } = this.#options;
    const ranges: RankRange[] = [];
    let row = 0;
    for (const { tokens, rank } of pieces) {
      const to = row + tokens.length;
      const before = ranges.at(-1);
      if (before && before.rank === rank) ranges[ranges.length - 1] = { ...before, to };
      else ranges.push({ from: row, to, rank, scale: adapter ? scaleAt(adapter.config, rank) : 0 });
      row = to;
    }
    return ranges;
  }
}

interface Piece extends Extension {
  /** Which extension it belongs to. */
  readonly index: number;
  /** Whether it ends that extension, so that its logits are wanted. */
  readonly last: boolean;
}
