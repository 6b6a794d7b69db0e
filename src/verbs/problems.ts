// What is wrong with a set of settings, collected before anything is thrown, so that a user fixes all of it at once.

import { distance } from "fastest-levenshtein";
import { type ErrorCode, QdlError } from "../errors.ts";

export interface Problem {
  /** The setting, as the library spells it (`rankMax`). */
  readonly key: string;
  /** Where it was written, when not by the library: `--rank-max`, `run.yaml:3 rank-max`. */
  readonly path?: string;
  /** The value found, or undefined when the setting is missing. */
  readonly got?: unknown;
  readonly expected: string;
  /** Why, as half a sentence after "because". */
  readonly because?: string;
  /** A value or name that was probably meant. */
  readonly suggestion?: string;
  /** A more telling code than CONFIG_INVALID, used if all problems share it. */
  readonly code?: ErrorCode;
  /** What to do about it; shown when it is the only problem. */
  readonly hint?: string;
}

/** Throws one error that lists every problem; returns if there is none. */
export function throwProblems(command: string, problems: readonly Problem[]): void {
  const [first] = problems;
  if (!first) return;
  const shared = problems.every((problem) => problem.code === first.code) ? first.code : undefined;
  const lines = problems.map(problemLine);
  const message =
    lines.length === 1
      ? `${command}: ${lines[0]}`
      : `${command}: ${lines.length} settings are wrong:\n  - ${lines.join("\n  - ")}`;
  throw new QdlError(shared ?? "CONFIG_INVALID", message, {
    hint:
      lines.length === 1 && first.hint
        ? first.hint
        : `\`qdylora ${command} --help\` lists every setting with its values and default.`,
    details: { problems: problems.map((problem) => ({ ...problem })) },
  });
}

function problemLine(problem: Problem): string {
  const path = problem.path ?? problem.key;
  const found = problem.got === undefined ? "is missing" : `is ${shown(problem.got)}`;
  const because = problem.because ? ` because ${problem.because}` : "";
  const suggestion = problem.suggestion ? ` Did you mean ${problem.suggestion}?` : "";
  return `${path} ${found}, expected ${problem.expected}${because}.${suggestion}`;
}

function shown(value: unknown): string {
  if (typeof value === "string") return `"${value}"`;
  return Array.isArray(value)
    ? `[${value.map(shown).join(", ")}]`
    : String(typeof value === "object" ? JSON.stringify(value) : value);
}

/** The word that was probably meant, or undefined if none is near. */
export function closest(word: string, allowed: readonly string[]): string | undefined {
  const near = allowed
    .map((candidate) => ({ candidate, steps: distance(word.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.steps - b.steps)[0];
  return near && near.steps <= Math.max(2, Math.floor(near.candidate.length / 3)) ? near.candidate : undefined;
}
