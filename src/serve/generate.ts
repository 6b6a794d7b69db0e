// Continuing prompts with an engine: one at a time with tokens as they come, or many side by side.

import { QdlError } from "../errors.ts";
import { breathe } from "../model/breathe.ts";
import { randomStream } from "../random/philox.ts";
import type { Engine, Extension } from "./engine.ts";
import { type SamplingOptions, sample } from "./sampler.ts";

export interface GenerateOptions {
  /** 0: the base alone. */
  readonly rank: number;
  readonly maxNewTokens: number;
  /** Ids that end a continuation; they are not part of it. */
  readonly stopIds: readonly number[];
  readonly sampling: SamplingOptions;
  readonly seed: number;
}

/**
 * Continues one prompt on sequence 0, which holds all of it but `fresh`, its last tokens; yields tokens as they are drawn.
 */
export async function* generate(
  engine: Engine,
  prompt: Int32Array,
  options: GenerateOptions,
  fresh: Int32Array = prompt,
): AsyncGenerator<number> {
  const seen = new Set(prompt);
  const stream = randomStream(options.seed, "sample/0");
  let tokens = fresh;
  const room = Math.min(options.maxNewTokens, engine.maxLength - engine.length(0) - fresh.length);
  for (let i = 0; i < room; i++) {
    const [logits] = await engine.extend([{ sequence: 0, tokens, rank: options.rank }]);
    const token = sample(logits!, options.sampling, seen, stream, i);
    if (options.stopIds.includes(token)) return;
    seen.add(token);
    yield token;
    tokens = Int32Array.of(token);
    await breathe();
  }
}

/**
 * Continues every prompt, as many side by side as the engine holds. Returns the new tokens in the order of the prompts.
 * Throws OP_ARGUMENT if a prompt is empty or leaves no room in a sequence.
 */
export async function generateBatch(
  engine: Engine,
  prompts: readonly Int32Array[],
  options: GenerateOptions,
): Promise<Int32Array[]> {
  const results: number[][] = prompts.map(() => []);
  const seen = prompts.map((prompt) => new Set(prompt));
  const streams = prompts.map((_, index) => randomStream(options.seed, `sample/${index}`));
  for (const prompt of prompts)
    if (prompt.length === 0 || prompt.length >= engine.maxLength)
      throw new QdlError(
        "OP_ARGUMENT",
        `generate: a prompt has ${prompt.length} tokens, expected 1..${engine.maxLength - 1}`,
      );
  for (let first = 0; first < prompts.length; first += engine.sequences) {
    const count = Math.min(engine.sequences, prompts.length - first);
    for (let sequence = 0; sequence < count; sequence++) engine.reset(sequence);
    let active: Extension[] = Array.from({ length: count }, (_, sequence) => ({
      sequence,
      tokens: prompts[first + sequence]!,
      rank: options.rank,
    }));
    for (let i = 0; i < options.maxNewTokens && active.length > 0; i++) {
      const logits = await engine.extend(active);
      active = active.flatMap((extension, j) => {
        const { sequence, rank } = extension;
        const which = first + sequence;
        const token = sample(logits[j]!, options.sampling, seen[which]!, streams[which]!, i);
        if (options.stopIds.includes(token)) return [];
        results[which]!.push(token);
        seen[which]!.add(token);
        return engine.length(sequence) < engine.maxLength ? [{ sequence, tokens: Int32Array.of(token), rank }] : [];
      });
      await breathe();
    }
  }
  return results.map((tokens) => Int32Array.from(tokens));
}
