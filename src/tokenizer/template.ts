// A model's own chat template (Jinja), rendered as `transformers` renders it, but for one thing: `strftime_now` always
// tells the same day. A template that prints today's date (Llama 3.x does) would otherwise give other tokens tomorrow,
// and a resumed run would find other data than it began with. The day is the fallback in Llama 3.2's own template.

import { parse, Template, tokenize } from "@huggingface/jinja";
import { QdlError } from "../errors.ts";
import { sha256Text } from "./sha256.ts";

/** One message of a conversation. Further keys (name, tool_calls, …) reach the template as they are. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly [key: string]: unknown;
}

const DAY: Readonly<Record<string, string>> = {
  "%Y": "2024",
  "%m": "07",
  "%d": "26",
  "%b": "Jul",
  "%B": "July",
  "%H": "00",
  "%M": "00",
  "%S": "00",
  "%%": "%",
};

/** A parsed template. Throws TEMPLATE_FAILED for text that is not a template. */
export class ChatTemplate {
  readonly text: string;
  readonly sha256: string;
  readonly #template: Template;
  readonly #specialTokens: Readonly<Record<string, unknown>>;

  /** `specialTokens`: what templates call bos_token, eos_token and so on. */
  constructor(text: string, specialTokens: Readonly<Record<string, unknown>>) {
    this.text = text;
    this.sha256 = sha256Text(text);
    this.#specialTokens = specialTokens;
    try {
      this.#template = new Template(text);
      this.#template.parsed.body.unshift(...parse(tokenize("{% set strftime_now = fixed_day %}")).body);
    } catch (cause) {
      throw failure("the template cannot be parsed", cause);
    }
  }

  /** The conversation as text; `generationPrompt` adds the opening of an assistant's turn. Throws TEMPLATE_FAILED. */
  render(messages: readonly ChatMessage[], options: { readonly generationPrompt: boolean }): string {
    try {
      return this.#template.render({
        ...this.#specialTokens,
        messages,
        tools: null,
        documents: null,
        add_generation_prompt: options.generationPrompt,
        fixed_day: (format: string) => format.replace(/%[a-zA-Z%]/g, (code) => DAY[code] ?? code),
      });
    } catch (cause) {
      throw failure("the template raised an error", cause);
    }
  }
}

function failure(what: string, cause: unknown): QdlError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new QdlError("TEMPLATE_FAILED", `chat template: ${what}: ${reason}`, {
    hint: "Check the roles and their order against the model's card, or give the model another chat_template.jinja.",
    details: { reason },
    cause,
  });
}
