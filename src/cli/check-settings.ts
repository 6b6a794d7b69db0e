// Checks that need several settings at once, in the terms of the command line, reported together with the unreadable ones.

import type { LinearName } from "../model/config.ts";
import { KNOWN_LINEARS } from "../model/families/index.ts";
import { closest, type Problem, throwProblems } from "../verbs/problems.ts";
import { targetProblem, trainProblems } from "../verbs/train-options.ts";
import type { CommandSpec } from "./command.ts";
import { flagName } from "./options.ts";
import type { Parsed } from "./values.ts";

/** Throws one error with all problems of a command's values. */
export function checkSettings(command: CommandSpec, parsed: Parsed): void {
  const problems = [...parsed.problems];
  // Commands that train, or plan to, have a learning rate; the ranks of others are not those of a run.
  if (command.options.includes("lr"))
    problems.push(...trainProblems(trainValues(parsed.values)).map((problem) => located(problem, parsed)));
  throwProblems(command.name, problems);
}

/** The values as the library takes them: `targets: all` is the library's default, `epochs` and `steps` stay as given. */
export function trainValues<T extends { readonly targets?: readonly string[] }>(
  values: T,
): Omit<T, "targets"> & { targets?: LinearName[] } {
  const { targets, ...rest } = values;
  if (targets === undefined || (targets.length === 1 && targets[0] === "all")) return rest;
  return { ...rest, targets: [...targets] };
}

function located(problem: Problem, parsed: Parsed): Problem {
  const path = parsed.paths.get(problem.key) ?? `--${flagName(problem.key)}`;
  const isTarget = problem.key === "targets" && typeof problem.got === "string";
  const suggestion =
    isTarget && problem.because === targetProblem("").because
      ? closest(problem.got as string, KNOWN_LINEARS)
      : undefined;
  return { ...problem, path, ...(suggestion ? { suggestion } : {}) };
}
