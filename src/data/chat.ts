// Which tokens of a conversation the assistant says. A template is a program, so its output cannot be cut by looking for
// role names. Instead the conversation is rendered up to each assistant message as generation would render it (with the
// opening of the assistant's turn), and up to the message's end. If both are token prefixes of the whole, then what lies
// between is what the model has to produce there, and generation from the prefix sees exactly the training ids.

import type { ChatMessage } from "../tokenizer/template.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

export interface ChatTokens {
  readonly tokens: Int32Array;
  /** [from, to) of each assistant message, its end-of-turn token included, white space after that not. */
  readonly spans: readonly (readonly [number, number])[];
}

/** The ids of a conversation; with `generationPrompt` those after which the assistant's next message begins. */
export function chatTokens(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: { readonly generationPrompt: boolean },
): Int32Array {
  return tokenizer.encode(tokenizer.renderChat(messages, options), { addSpecial: true });
}

/** The conversation with its assistant spans, or why they cannot be told. Throws TEMPLATE_MISSING, TEMPLATE_FAILED. */
export function assistantSpans(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
): ChatTokens | { readonly reason: string } {
  const tokens = chatTokens(tokenizer, messages, { generationPrompt: false });
  const spans: [number, number][] = [];
  for (const [i, message] of messages.entries()) {
    if (message.role !== "assistant") continue;
    const before = chatTokens(tokenizer, messages.slice(0, i), { generationPrompt: true });
    const after = chatTokens(tokenizer, messages.slice(0, i + 1), { generationPrompt: false });
    const differs = firstDifference(before, tokens) ?? firstDifference(after, tokens);
    if (differs !== null || after.length < before.length) {
      return { reason: unstable(i, differs ?? after.length) };
    }
    spans.push([before.length, endOfTurn(tokenizer, tokens, before.length, after.length)]);
  }
  return { tokens, spans };
}

/** Ids at which generation of a chat answer stops: the model's own, and the mark its template puts after an answer. */
export function chatStopIds(tokenizer: Tokenizer): readonly number[] {
  const probe = assistantSpans(tokenizer, [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ]);
  const to = "spans" in probe ? probe.spans[0]![1] : 0;
  const last = "tokens" in probe ? probe.tokens[to - 1] : undefined;
  const mark = last !== undefined && tokenizer.isSpecial(last) ? [last] : [];
  return [...new Set([...tokenizer.eosIds, ...mark])];
}

/** The end of [from, to) without white space after the last special token: the model stops at that token. */
function endOfTurn(tokenizer: Tokenizer, tokens: Int32Array, from: number, to: number): number {
  let end = to;
  while (end > from && !tokenizer.isSpecial(tokens[end - 1]!)) end--;
  const rest = tokenizer.decode(tokens.subarray(end, to), { skipSpecial: false });
  return end > from && rest.trim() === "" ? end : to;
}

/** The first index at which `prefix` is not the beginning of `whole`, or null. */
function firstDifference(prefix: Int32Array, whole: Int32Array): number | null {
  const at = prefix.findIndex((id, i) => id !== whole[i]);
  return at < 0 ? null : at;
}

function unstable(message: number, token: number): string {
  return (
    `messages.${message}: the chat template renders the conversation up to this message otherwise than inside the whole ` +
    `(from token ${token} on), so the tokens of the answer cannot be told from those of the prompt`
  );
}
