// generate and chat: a base with an adapter at a rank of the caller's choice, as text.

import type { Adapter } from "../adapter/parameters.ts";
import { chatStopIds } from "../data/chat.ts";
import { promptTokens } from "../data/examples.ts";
import { QdlError } from "../errors.ts";
import { Engine } from "../serve/engine.ts";
import { generate as generateTokens } from "../serve/generate.ts";
import { StopStrings } from "../serve/stop-strings.ts";
import { DecodeStream } from "../tokenizer/decode-stream.ts";
import type { ChatMessage } from "../tokenizer/template.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { type AdapterSettings, openAdapter, rankOrLargest } from "./open-adapter.ts";
import { type ModelSettings, type OpenBase, openBase, openModelFiles } from "./open-model.ts";
import { type Problem, throwProblems } from "./problems.ts";

export interface SamplingSettings {
  /** Most tokens to generate. Default: 128. */
  readonly maxNewTokens?: number;
  /** 0: always the likeliest token (the default). */
  readonly temperature?: number;
  /** Sample from the likeliest tokens that make up this probability. Default: 1. */
  readonly topP?: number;
  /** Sample from so many likeliest tokens; 0: from all (the default). */
  readonly topK?: number;
  /** Sample from tokens at least so likely as this share of the likeliest; 0: from all (the default). */
  readonly minP?: number;
  /** Above 1: tokens that are there already become less likely. Default: 1. */
  readonly repetitionPenalty?: number;
  /** Strings that end an answer; they are not part of it. */
  readonly stop?: readonly string[];
  readonly seed?: number;
}

/** An adapter at a rank, or with `adapter` absent the base alone. */
export type SpeakerSettings = (AdapterSettings | (ModelSettings & { readonly adapter?: undefined })) & {
  /** Default: the adapter's largest; 0: the base alone. */
  readonly rank?: number;
};

export type GenerateOptions = SpeakerSettings &
  SamplingSettings & {
    /** Text to continue, encoded as prompts are in training; or a conversation to answer. */
    readonly prompt: string | readonly ChatMessage[];
    /** Hears of the text as it comes. */
    readonly onText?: (piece: string) => void;
  };

export interface Generated {
  readonly text: string;
  readonly rank: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** end: the model ended its answer. stop: a stop string came. length: `maxNewTokens` or the model's longest sequence was reached. */
  readonly stopped: "end" | "stop" | "length";
}

export const GENERATE_DEFAULTS = {
  maxNewTokens: 128,
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  stop: [],
  seed: 1,
} as const satisfies Required<SamplingSettings>;

/** Continues one prompt. Throws RANK_OUT_OF_RANGE, CONFIG_INVALID, DATA_OVERLONG (no room after the prompt), and what opening throws. */
export async function generate(options: GenerateOptions): Promise<Generated> {
  await using speaker = await openSpeaker(options);
  return await speaker.answer(options.prompt, options, options.onText);
}

/** A model that is ready to answer. */
export interface Speaker extends AsyncDisposable {
  readonly rank: number;
  /** Answers from now on are given at this rank; 0: the base alone. Throws RANK_OUT_OF_RANGE. */
  setRank(rank: number): void;
  /** Answers one prompt, or a whole conversation; what it shares with the last one is not computed again. */
  answer(
    prompt: string | readonly ChatMessage[],
    sampling: SamplingSettings,
    onText?: (piece: string) => void,
  ): Promise<Generated>;
}

/** Most tokens of one pass over a prompt. */
const PASS_ROWS = 256;
/** Tokens that a conversation may have, prompt included, unless the model attends to fewer. */
const MOST_LENGTH = 4096;

/** Opens base, adapter and engine. The caller disposes it. Throws RANK_OUT_OF_RANGE and what opening throws. */
export async function openSpeaker(settings: SpeakerSettings): Promise<Speaker> {
  const opened = await openParts(settings);
  try {
    const { base, adapter } = opened;
    const checked = (rank?: number): number => (adapter ? rankOrLargest(rank, adapter.rankMax) : baseRank(rank));
    const rank = checked(settings.rank);
    const maxLength = Math.min(base.model.config.maxPositions, MOST_LENGTH);
    const engine = new Engine({
      backend: base.backend,
      model: base.model,
      adapter,
      sequences: 1,
      maxLength,
      maxRows: PASS_ROWS,
    });
    const dispose = async (): Promise<void> => {
      engine[Symbol.dispose]();
      await opened[Symbol.asyncDispose]();
    };
    const voice = new Voice(engine, base.tokenizer, rank);
    return {
      get rank() {
        return voice.rank;
      },
      setRank: (other) => voice.setRank(checked(other)),
      answer: (prompt, sampling, onText) => voice.answer(prompt, sampling, onText),
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await opened[Symbol.asyncDispose]();
    throw error;
  }
}

interface Parts extends AsyncDisposable {
  readonly base: OpenBase;
  readonly adapter: Adapter | null;
}

async function openParts(settings: SpeakerSettings): Promise<Parts> {
  if (settings.adapter !== undefined) return openAdapter(settings);
  await using files = await openModelFiles(settings.model, settings);
  const base = await openBase(files, settings);
  return { base, adapter: null, [Symbol.asyncDispose]: () => base[Symbol.asyncDispose]() };
}

function baseRank(rank = 0): 0 {
  if (rank !== 0)
    throw new QdlError("RANK_OUT_OF_RANGE", `rank is ${rank}, expected 0 because no adapter was given`, {
      hint: "Name an adapter's folder, or leave --rank away to hear the base.",
      details: { rank },
    });
  return 0;
}

class Voice {
  readonly #engine: Engine;
  readonly #tokenizer: Tokenizer;
  #rank: number;
  /** What the engine holds of the last conversation. */
  #held: number[] = [];

  constructor(engine: Engine, tokenizer: Tokenizer, rank: number) {
    this.#engine = engine;
    this.#tokenizer = tokenizer;
    this.#rank = rank;
  }

  get rank(): number {
    return this.#rank;
  }

  setRank(rank: number): void {
    // Keys and values of another rank are other numbers.
    if (rank !== this.#rank) this.#held = [];
    this.#rank = rank;
  }

  async answer(
    prompt: string | readonly ChatMessage[],
    settings: SamplingSettings,
    onText: (piece: string) => void = () => {},
  ): Promise<Generated> {
    throwProblems("generate", samplingProblems(settings));
    const { maxNewTokens, seed, stop, ...sampling } = samplingOf(settings);
    const tokens = promptTokens(this.#tokenizer, prompt);
    this.#checkRoom(tokens.length);
    const fresh = this.#rewind(tokens);
    const stopIds = typeof prompt === "string" ? this.#tokenizer.eosIds : chatStopIds(this.#tokenizer);
    const decoder = new DecodeStream(this.#tokenizer, tokens);
    const stops = new StopStrings(stop);
    const room = Math.min(maxNewTokens, this.#engine.maxLength - tokens.length);
    let text = "";
    let count = 0;
    const emit = (piece: string): void => {
      text += piece;
      if (piece !== "") onText(piece);
    };
    const request = { rank: this.#rank, maxNewTokens, stopIds, sampling, seed };
    for await (const token of generateTokens(this.#engine, tokens, request, fresh)) {
      count++;
      this.#held.push(token);
      emit(stops.push(decoder.push(token)));
      if (stops.stopped) break;
    }
    emit(stops.push(decoder.end()));
    emit(stops.end());
    return {
      text,
      rank: this.#rank,
      promptTokens: tokens.length,
      newTokens: count,
      stopped: stops.stopped ? "stop" : count < room ? "end" : "length",
    };
  }

  /** Keeps what the engine holds of these tokens' beginning; returns the rest, at least one token. */
  #rewind(tokens: Int32Array): Int32Array {
    const limit = Math.min(this.#held.length, this.#engine.length(0), tokens.length - 1);
    let shared = 0;
    while (shared < limit && this.#held[shared] === tokens[shared]) shared++;
    this.#engine.reset(0, shared);
    this.#held = [...tokens];
    return tokens.subarray(shared);
  }

  #checkRoom(length: number): void {
    const most = this.#engine.maxLength - 1;
    if (length >= 1 && length <= most) return;
    throw new QdlError(
      "DATA_OVERLONG",
      `prompt: it has ${length} tokens, expected 1 to ${most}, so that an answer fits behind it`,
      {
        hint: length === 0 ? "Give a prompt with text in it." : "Shorten the prompt or the conversation.",
        details: { tokens: length, most },
      },
    );
  }
}

/** The settings with defaults; one that is `undefined` counts as absent. */
function samplingOf(settings: SamplingSettings): Required<SamplingSettings> {
  const pick = <K extends keyof SamplingSettings>(key: K) => settings[key] ?? GENERATE_DEFAULTS[key];
  return {
    maxNewTokens: pick("maxNewTokens"),
    temperature: pick("temperature"),
    topP: pick("topP"),
    topK: pick("topK"),
    minP: pick("minP"),
    repetitionPenalty: pick("repetitionPenalty"),
    stop: pick("stop"),
    seed: pick("seed"),
  };
}

function samplingProblems(settings: SamplingSettings): Problem[] {
  const { maxNewTokens, temperature, topP, topK, minP, repetitionPenalty, stop } = settings;
  const problems: Problem[] = [];
  const check = (key: string, got: number | undefined, sound: (value: number) => boolean, expected: string): void => {
    if (got !== undefined && !sound(got)) problems.push({ key, got, expected });
  };
  check("maxNewTokens", maxNewTokens, (v) => Number.isSafeInteger(v) && v >= 1, "a whole number from 1");
  check("temperature", temperature, (v) => Number.isFinite(v) && v >= 0, "a number from 0");
  check("topP", topP, (v) => v > 0 && v <= 1, "a number above 0, at most 1");
  check("topK", topK, (v) => Number.isSafeInteger(v) && v >= 0, "a whole number from 0");
  check("minP", minP, (v) => v >= 0 && v <= 1, "a number from 0 to 1");
  check("repetitionPenalty", repetitionPenalty, (v) => Number.isFinite(v) && v > 0, "a number above 0");
  if (stop?.includes("")) problems.push({ key: "stop", got: stop, expected: "strings that are not empty" });
  return problems;
}
