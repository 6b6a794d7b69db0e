// From arguments to an exit code: parse, run one command, print its JSON or its error.

import { version } from "../verbs/version.ts";
import { checkSettings } from "./check-settings.ts";
import type { CommandSpec, Context } from "./command.ts";
import { COMMANDS } from "./commands/index.ts";
import { readConfigFile } from "./config-file.ts";
import { errorJson, errorText, exitCodeOf } from "./error-text.ts";
import type { Io } from "./io.ts";
import { parseArguments } from "./program.ts";
import { Progress } from "./progress.ts";
import { styleFor } from "./style.ts";
import { parseValues } from "./values.ts";

/** Runs the command line. Returns the exit code; throws nothing. */
export async function main(argv: readonly string[], io: Io): Promise<number> {
  const flags = beforeTerminator(argv);
  const json = flags.includes("--json");
  try {
    const request = parseArguments(argv, COMMANDS, version);
    if (request.kind === "print") {
      io.out(request.text);
      return 0;
    }
    const context = contextFor(io, json, request.argument);
    const values = await valuesOf(request.command, request.flags, context);
    const result = await request.command.run(values, context);
    // A command that writes its JSON line by line returns nothing.
    if (json && result !== undefined) io.out(`${JSON.stringify(result, null, 2)}\n`);
    return 0;
  } catch (error) {
    io.err(errorText(error, styleFor(io.interactive, io.env), flags.includes("--debug")));
    if (json) io.out(`${JSON.stringify(errorJson(error), null, 2)}\n`);
    return exitCodeOf(error);
  }
}

const beforeTerminator = (argv: readonly string[]): readonly string[] => {
  const end = argv.indexOf("--");
  return end < 0 ? argv : argv.slice(0, end);
};

function contextFor(io: Io, json: boolean, argument: string | undefined): Context {
  const say = json ? io.err : io.out;
  const progress = new Progress(io, styleFor(io.interactive, io.env));
  return {
    io,
    json,
    argument,
    style: styleFor(json ? io.interactive : io.outIsTerminal, io.env),
    onDownload: (download) => progress.onDownload(download),
    say: (text) => say(`${text}\n`),
    note: (text) => io.err(`${text}\n`),
  };
}

async function valuesOf(
  command: CommandSpec,
  flags: Record<string, unknown>,
  context: Context,
): Promise<Record<string, never>> {
  const file = command.configFile ? context.argument : undefined;
  const config = file === undefined ? [] : await readConfigFile(file);
  const parsed = parseValues(command, flags, config);
  checkSettings(command, parsed);
  return parsed.values as Record<string, never>;
}
