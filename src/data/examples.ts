// From a row to tokens and to the mask of those that the loss looks at.
//
// The boundary rule: prompt and completion are encoded apart and their ids laid end to end, the completion as a
// continuation (no space is put before it). Generation encodes the same prompt with the same function, so at the point
// where the answer begins training, evaluation and generation see the same ids. Encoding both as one text would let a
// token straddle the boundary, which the model never meets when it answers.

import { QdlError } from "../errors.ts";
import { concatIds } from "../tokenizer/ids.ts";
import type { ChatMessage } from "../tokenizer/template.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { assistantSpans, chatTokens } from "./chat.ts";
import type { Row } from "./rows.ts";

/** completion: only completions and assistant messages, their end token included. all: every token but the first. */
export type LossOn = "completion" | "all";

export interface Example {
  readonly tokens: Int32Array;
  /** As Sample.supervised: 1 where the loss looks at the token. */
  readonly supervised: Uint8Array;
}

/** The ids that stand before an answer: of a prompt's text, or of a conversation that the assistant is to go on with. */
export function promptTokens(tokenizer: Tokenizer, prompt: string | readonly ChatMessage[]): Int32Array {
  return typeof prompt === "string"
    ? tokenizer.encode(prompt, { addSpecial: true })
    : chatTokens(tokenizer, prompt, { generationPrompt: true });
}

/** The ids of an answer to a text prompt, EOS at the end. */
export function completionTokens(tokenizer: Tokenizer, completion: string): Int32Array {
  return withEos(tokenizer, tokenizer.encode(completion, { addSpecial: false, continuation: true }));
}

/** A row as tokens, or why it cannot be used. Text rows are supervised throughout. Throws TEMPLATE_MISSING, and
 * TOKENIZER_INVALID without an EOS. */
export function exampleOf(row: Row, tokenizer: Tokenizer, lossOn: LossOn): Example | { readonly reason: string } {
  if (row.kind !== "chat") endOfText(tokenizer); // its absence is the model's fault, not the row's
  try {
    switch (row.kind) {
      case "text": {
        const tokens = withEos(tokenizer, tokenizer.encode(row.text, { addSpecial: true }));
        return masked(tokens, [[0, tokens.length]]);
      }
      case "completion": {
        const prompt = promptTokens(tokenizer, row.prompt);
        const tokens = concatIds(prompt, completionTokens(tokenizer, row.completion));
        return masked(tokens, [[lossOn === "all" ? 0 : prompt.length, tokens.length]]);
      }
      case "chat": {
        if (lossOn === "all") {
          const tokens = chatTokens(tokenizer, row.messages, { generationPrompt: false });
          return masked(tokens, [[0, tokens.length]]);
        }
        const chat = assistantSpans(tokenizer, row.messages);
        return "reason" in chat ? chat : masked(chat.tokens, chat.spans);
      }
    }
  } catch (error) {
    // A template may refuse one conversation (roles that do not alternate), a vocabulary one text: the row's fault.
    if (error instanceof QdlError && error.code !== "TEMPLATE_MISSING") {
      return { reason: error.message };
    }
    throw error;
  }
}

function masked(tokens: Int32Array, spans: readonly (readonly [number, number])[]): Example {
  const supervised = new Uint8Array(tokens.length);
  for (const [from, to] of spans) supervised.fill(1, from, to);
  // Nothing stands before the first token that could predict it.
  if (supervised.length > 0) supervised[0] = 0;
  return { tokens, supervised };
}

function withEos(tokenizer: Tokenizer, ids: Int32Array): Int32Array {
  const eos = endOfText(tokenizer);
  return ids.at(-1) === eos ? ids : concatIds(ids, [eos]);
}

function endOfText(tokenizer: Tokenizer): number {
  const [eos] = tokenizer.eosIds;
  if (eos !== undefined) return eos;
  throw new QdlError(
    "TOKENIZER_INVALID",
    "tokenizer: it names no end-of-text token, expected one to end samples with",
    {
      hint: 'Set "eos_token" in tokenizer_config.json; a model tuned without it does not learn to stop.',
    },
  );
}
