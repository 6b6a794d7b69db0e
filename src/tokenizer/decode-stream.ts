// Text as it is generated. A character can be spread over several tokens, so a token may show nothing until the next.

import type { Tokenizer } from "./tokenizer.ts";

/** Tokens decoded together: enough for one character (at most 4 bytes, one token each) and for decoders that look back. */
const CONTEXT = 8;
const WINDOW = 32;

/** Emits only whole characters: the pieces, with `end()`, concatenate to the decoded text. */
export class DecodeStream {
  readonly #tokenizer: Tokenizer;
  #window: number[];
  #emitted: number;

  /** `prompt`: the ids before the text. With them the first word keeps the space that separates it from the prompt. */
  constructor(tokenizer: Tokenizer, prompt: ArrayLike<number> = []) {
    this.#tokenizer = tokenizer;
    this.#window = Array.from(prompt).slice(-CONTEXT);
    this.#emitted = this.#whole().length;
  }

  /** The text that this token completes; special tokens are left out. */
  push(id: number): string {
    this.#window.push(id);
    const text = this.#whole();
    const piece = text.slice(this.#emitted);
    this.#emitted = Math.max(this.#emitted, text.length);
    if (this.#window.length > WINDOW && text === this.#text()) this.#shorten();
    return piece;
  }

  /** What was held back, when no further token comes. */
  end(): string {
    const piece = this.#text().slice(this.#emitted);
    this.#emitted += piece.length;
    return piece;
  }

  #shorten(): void {
    this.#window = this.#window.slice(-CONTEXT);
    this.#emitted = this.#text().length;
  }

  #text(): string {
    return this.#tokenizer.decode(this.#window, { skipSpecial: true });
  }

  /** The text without an unfinished character at its end, which decodes to exactly one U+FFFD. */
  #whole(): string {
    const text = this.#text();
    return text.endsWith("\uFFFD") ? text.slice(0, -1) : text;
  }
}
