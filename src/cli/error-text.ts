// How an error looks: its code, what is wrong, what to do. Stacks only when asked for.

import { ERROR_CODES, QdlError } from "../errors.ts";
import type { Style } from "./style.ts";

/** Exit code of a bug: an error that nobody threw on purpose. */
const INTERNAL_EXIT = 70;

export const exitCodeOf = (error: unknown): number =>
  error instanceof QdlError ? ERROR_CODES[error.code].exit : INTERNAL_EXIT;

/** The error for people. */
export function errorText(error: unknown, style: Style, debug: boolean): string {
  const stack = debug && error instanceof Error ? `\n${style.dim(stackOf(error))}` : "";
  if (error instanceof QdlError) {
    const hint = error.hint ? `\n${style.bold("hint:")} ${error.hint}` : "";
    return `${style.bad(error.code)}  ${error.message}${hint}${stack}\n`;
  }
  const message = error instanceof Error ? error.message : String(error);
  const hint = debug
    ? ""
    : `\n${style.bold("hint:")} This is a bug in qdylora. Run again with --debug and report what it prints.`;
  return `${style.bad("INTERNAL")}  ${message}${hint}${stack}\n`;
}

/** The error as the JSON object that --json prints. */
export function errorJson(error: unknown): { error: Record<string, unknown> } {
  if (error instanceof QdlError)
    return { error: { code: error.code, message: error.message, hint: error.hint ?? null, details: error.details } };
  return {
    error: {
      code: "INTERNAL",
      message: error instanceof Error ? error.message : String(error),
      hint: null,
      details: {},
    },
  };
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : "";
  return `${error.stack ?? error.message}${cause}`;
}
