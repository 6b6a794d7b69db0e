// The outside world of the command line, so that tests can be it.

export interface Io {
  /** Data. Nothing else ever goes here under --json. */
  out(text: string): void;
  /** Text for people: progress, notes, errors. */
  err(text: string): void;
  /** People watch `err` live: a progress bar may redraw its line, and colours show. */
  readonly interactive: boolean;
  /** People watch `out`: colours show. */
  readonly outIsTerminal: boolean;
  readonly columns: number;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Standard input line by line; ends with the input. */
  lines(): AsyncIterable<string>;
  /** Standard input comes from a terminal. */
  readonly inIsTerminal: boolean;
  /** Calls `handler` on each Ctrl-C (or SIGTERM) until the returned function is called. */
  onInterrupt(handler: () => void): () => void;
  /** Ends the process now: a second Ctrl-C. */
  exit(code: number): void;
}
