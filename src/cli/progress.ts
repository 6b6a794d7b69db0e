// The progress of a run, from its events: one line redrawn in place on a terminal, a plain line every few seconds elsewhere.

import type { HubProgress } from "../formats/node-hub.ts";
import type { LoadProgress } from "../quant/load-base.ts";
import type { TrainEvent } from "../train/events.ts";
import type { Io } from "./io.ts";
import { planText } from "./plan-text.ts";
import { type Style, showBytes, showSeconds, widthOf } from "./style.ts";

const REDRAW_MS = 100;
const PLAIN_LINE_MS = 5000;
const LOAD_QUIET_MS = 1000;
/** Weight of the newest loss in the shown average: single steps jump with the rank they drew. */
const SMOOTHING = 0.1;
const ERASE_LINE = "\r\u001b[2K";

type StepEvent = Extract<TrainEvent, { type: "step" }>;

export class Progress {
  readonly #io: Io;
  readonly #style: Style;
  readonly #now: () => number;
  readonly #openedAt: number;
  #steps = 0;
  #loss = Number.NaN;
  #last: StepEvent | null = null;
  #drawnAt = Number.NEGATIVE_INFINITY;
  #live = false;

  constructor(io: Io, style: Style, now: () => number = () => performance.now()) {
    this.#io = io;
    this.#style = style;
    this.#now = now;
    this.#openedAt = now();
  }

  onEvent(event: TrainEvent): void {
    switch (event.type) {
      case "start":
        this.#steps = event.steps;
        this.line(
          `${event.resumed ? `resuming at step ${event.step}` : "training"}: ${event.steps} steps, ${planText(event)}`,
        );
        break;
      case "step":
        this.#last = event;
        this.#loss = Number.isNaN(this.#loss) ? event.loss : this.#loss + SMOOTHING * (event.loss - this.#loss);
        this.#draw(event.step + 1 >= this.#steps);
        break;
      case "skipped":
        this.line(`step ${event.step + 1} at rank ${event.rank} changed nothing: ${SKIP_REASONS[event.reason]}`);
        break;
      case "eval":
        this.line(
          `step ${event.step}: held-out loss ${event.scores.map(({ rank, loss }) => `${rank === 0 ? "base" : `rank ${rank}`} ${loss.toFixed(3)}`).join(", ")}`,
        );
        break;
      case "interrupted":
        this.#last = null;
        this.line(`stopped after step ${event.step}`);
        break;
      case "end":
        this.#last = null;
        this.line(`trained ${event.step} steps in ${showSeconds(event.seconds)}`);
        break;
      case "checkpoint":
        break;
    }
  }

  /** How much of the base is loaded; loading what is small is not worth a line. */
  onLoad({ doneBytes, totalBytes }: LoadProgress): void {
    if (this.#now() - this.#openedAt >= LOAD_QUIET_MS) this.#share("loading the base", doneBytes, totalBytes);
  }

  /** How much of a model has come from the hub; the bar goes when all has. */
  onDownload({ file, doneBytes, totalBytes }: HubProgress): void {
    if (doneBytes < totalBytes) this.#share(`downloading (${file})`, doneBytes, totalBytes);
    else this.clear();
  }

  #share(what: string, doneBytes: number, totalBytes: number): void {
    if (this.#now() - this.#drawnAt < this.#pause) return;
    this.#drawnAt = this.#now();
    const text = `${what}: ${Math.floor((100 * doneBytes) / totalBytes)} % of ${showBytes(totalBytes)}`;
    this.#io.err(this.#io.interactive ? ERASE_LINE + text.slice(0, this.#io.columns - 1) : `${text}\n`);
    this.#live = this.#io.interactive;
  }

  /** A whole line, above the bar if one is up. */
  line(text: string): void {
    this.clear();
    this.#io.err(`${text}\n`);
    if (this.#io.interactive && this.#last && this.#last.step + 1 < this.#steps) this.#draw(true);
  }

  /** Takes the bar away, so that others can write. */
  clear(): void {
    if (this.#live) this.#io.err(ERASE_LINE);
    this.#live = false;
  }

  get #pause(): number {
    return this.#io.interactive ? REDRAW_MS : PLAIN_LINE_MS;
  }

  #draw(force: boolean): void {
    if (!this.#last || (!force && this.#now() - this.#drawnAt < this.#pause)) return;
    this.#drawnAt = this.#now();
    if (!this.#io.interactive) {
      this.#io.err(`${this.#numbers(this.#last)}\n`);
      return;
    }
    const numbers = this.#numbers(this.#last);
    const room = Math.min(30, this.#io.columns - widthOf(numbers) - 3);
    const bar = room >= 8 ? `${this.#bar((this.#last.step + 1) / this.#steps, room)} ` : "";
    // Erasing and writing in one call: the terminal never shows an empty line.
    this.#io.err(ERASE_LINE + bar + numbers.slice(0, Math.max(0, this.#io.columns - 1)));
    this.#live = true;
  }

  #bar(share: number, width: number): string {
    const full = Math.round(Math.min(1, share) * width);
    return this.#style.accent("━".repeat(full)) + this.#style.dim("─".repeat(width - full));
  }

  #numbers({ step, rank, tokensPerSecond, secondsLeft }: StepEvent): string {
    return `step ${step + 1}/${this.#steps}  loss ${this.#loss.toFixed(3)}  rank ${String(rank).padStart(2)}  ${Math.round(tokensPerSecond)} tokens/s  ${showSeconds(secondsLeft)} left`;
  }
}

const SKIP_REASONS = {
  loss: "its loss was not finite",
  gradient: "its gradient was not finite",
  unsupervised: "it had no supervised token",
} as const;
