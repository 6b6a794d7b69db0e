// Text up to the first of several strings, as it comes: what may be the beginning of one is held back until it is known.

export class StopStrings {
  readonly #stops: readonly string[];
  #held = "";
  #stopped = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== "");
  }

  /** A stop string has come; nothing is emitted any more. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** The text that may be shown now that `piece` has come. */
  push(piece: string): string {
    if (this.#stopped) return "";
    this.#held += piece;
    const at = this.#firstStop();
    if (at >= 0) {
      this.#stopped = true;
      return this.#take(at);
    }
    return this.#take(this.#held.length - this.#unsure());
  }

  /** What was held back, when no further text comes. */
  end(): string {
    return this.#stopped ? "" : this.#take(this.#held.length);
  }

  #take(length: number): string {
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return text;
  }

  #firstStop(): number {
    const found = this.#stops.map((stop) => this.#held.indexOf(stop)).filter((at) => at >= 0);
    return found.length === 0 ? -1 : Math.min(...found);
  }

  /** Length of the longest end of the text that some stop string begins with. */
  #unsure(): number {
    for (let at = 0; at < this.#held.length; at++)
      if (this.#stops.some((stop) => stop.startsWith(this.#held.slice(at)))) return this.#held.length - at;
    return 0;
  }
}
