// Which algorithm of cuBLASLt was the fastest for a product: text that can be kept beside a run, so that a resumed or
// repeated run takes the same ones and gives the same bits.

import { QdlError } from "../../errors.ts";

const VERSION = 1;

interface Saved {
  readonly version: number;
  readonly target: string;
  readonly algorithms: Readonly<Record<string, string>>;
}

export class TuningCache {
  /** What the algorithms run on: those of another generation or library are of no use. */
  readonly #target: string;
  readonly #algorithms = new Map<string, string>();

  constructor(target: string) {
    this.#target = target;
  }

  /** Products whose algorithm is known. */
  get size(): number {
    return this.#algorithms.size;
  }

  /** The algorithm's bytes in hexadecimal, as cuBLASLt of the same version wrote them. */
  get(product: string): string | undefined {
    return this.#algorithms.get(product);
  }

  set(product: string, algorithm: string): void {
    this.#algorithms.set(product, algorithm);
  }

  /** JSON of all choices, in an order that does not depend on that of their making. */
  save(): string {
    const entries = [...this.#algorithms].sort(([a], [b]) => (a < b ? -1 : 1));
    const saved: Saved = { version: VERSION, target: this.#target, algorithms: Object.fromEntries(entries) };
    return `${JSON.stringify(saved, null, 1)}\n`;
  }

  /** Takes over saved choices; those for another target are left out. Throws CHECKPOINT_INVALID. */
  load(text: string): void {
    const saved = parse(text);
    if (saved.target !== this.#target) return;
    for (const [product, algorithm] of Object.entries(saved.algorithms)) this.#algorithms.set(product, algorithm);
  }
}

function parse(text: string): Saved {
  try {
    const saved = JSON.parse(text) as Saved;
    const texts = Object.values(saved.algorithms);
    if (saved.version === VERSION && texts.every((algorithm) => /^([0-9a-f]{2})+$/.test(algorithm))) return saved;
  } catch {
    // Said below.
  }
  throw new QdlError("CHECKPOINT_INVALID", "cuda: the saved choice of algorithms is not one", {
    hint: "Delete the run folder's tuning file: products are timed again.",
  });
}
