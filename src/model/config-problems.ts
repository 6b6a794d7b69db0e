// Everything that is wrong with a config.json, collected and reported in one error.

import type { z } from "zod";
import { type ErrorCode, QdlError } from "../errors.ts";

interface Problem {
  readonly code: Extract<ErrorCode, "MODEL_CONFIG_INVALID" | "MODEL_UNSUPPORTED">;
  readonly key: string;
  readonly text: string;
}

export class ConfigProblems {
  readonly #name: string;
  readonly #hint: string;
  readonly #found: Problem[] = [];

  /** `name`: the file, for messages; `hint`: what to do if a model is not supported. */
  constructor(name: string, hint: string) {
    this.#name = name;
    this.#hint = hint;
  }

  get any(): boolean {
    return this.#found.length > 0;
  }

  invalid(key: string, text: string): void {
    this.#found.push({ code: "MODEL_CONFIG_INVALID", key, text });
  }

  unsupported(key: string, value: unknown, supported: string): void {
    this.#found.push({ code: "MODEL_UNSUPPORTED", key, text: `is ${JSON.stringify(value)}, supported: ${supported}` });
  }

  /** The content of the file by its schema. Throws all problems found so far if it does not fit. */
  parse<T extends z.ZodType>(schema: T, json: unknown): z.output<T> {
    const parsed = schema.safeParse(json);
    if (parsed.success) return parsed.data;
    for (const issue of parsed.error.issues) {
      const unsupported = issue.code === "custom" && issue.params?.unsupported === true;
      const code = unsupported ? "MODEL_UNSUPPORTED" : "MODEL_CONFIG_INVALID";
      this.#found.push({ code, key: issue.path.join(".") || "the file", text: issue.message });
    }
    throw this.error();
  }

  /** MODEL_UNSUPPORTED if any problem is of that kind, else MODEL_CONFIG_INVALID. */
  error(): QdlError {
    const unsupported = this.#found.some((problem) => problem.code === "MODEL_UNSUPPORTED");
    const code = unsupported ? "MODEL_UNSUPPORTED" : "MODEL_CONFIG_INVALID";
    const lines = this.#found.map(({ key, text }) => `${key}: ${text}`);
    const list = lines.length === 1 ? lines[0] : `${lines.length} problems:\n  ${lines.join("\n  ")}`;
    const hint = unsupported ? this.#hint : "The file is damaged or was written by hand; fetch it again.";
    return new QdlError(code, `${this.#name}: ${list}`, { hint, details: { path: this.#name, problems: this.#found } });
  }
}
