// The commander program, built from the command and option tables.

import { Command, CommanderError, Option } from "commander";
import { QdlError } from "../errors.ts";
import type { CommandSpec } from "./command.ts";
import { defaultTextOf, flagName, type OptionKey, specOf } from "./options.ts";

/** What was typed: a command with raw flags, or text to print (help, version). */
export type Request =
  | {
      readonly kind: "run";
      readonly command: CommandSpec;
      readonly flags: Record<string, unknown>;
      readonly argument: string | undefined;
    }
  | { readonly kind: "print"; readonly text: string };

const ABOUT = `Fine-tune a language model once over a 4-bit base; use the adapter at any rank from 1 to R.

Start with:  qdylora quickstart`;

/** Reads the arguments. Throws USAGE. */
export function parseArguments(argv: readonly string[], commands: readonly CommandSpec[], version: string): Request {
  let printed = "";
  const writeOut = (text: string): void => {
    printed += text;
  };
  let request: Request | undefined;
  const program = new Command("qdylora").description(ABOUT).version(version, "-V, --version", "print the version");
  program.option("--debug", "print the stack of an error").option("--json", "print one JSON object on standard output");
  program.exitOverride().configureOutput({ writeOut, writeErr: () => {} });
  program.showSuggestionAfterError(true);
  for (const command of commands) {
    const sub = addCommand(program, command);
    sub.action((...args: unknown[]) => {
      const argument = command.argument ? (args[0] as string | undefined) : undefined;
      request = { kind: "run", command, flags: sub.opts(), argument };
    });
  }
  if (argv.length === 0) return { kind: "print", text: program.helpInformation() };
  try {
    program.parse(argv as string[], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { kind: "print", text: printed };
    throw usageError(error);
  }
  return request ?? { kind: "print", text: printed || program.helpInformation() };
}

function usageError(error: CommanderError): QdlError {
  const [message = "", ...rest] = error.message.replace(/^error: /, "").split("\n");
  const guess = rest.join(" ").replaceAll(/[()]/g, "").trim();
  return new QdlError("USAGE", `command line: ${message}`, {
    hint: `${guess ? `${guess} ` : ""}\`qdylora --help\` lists the commands, \`qdylora COMMAND --help\` the flags of one.`,
    cause: error,
  });
}

function addCommand(program: Command, command: CommandSpec): Command {
  const sub = program
    .command(command.name)
    .summary(command.summary)
    .description(`${command.summary}\n\n${command.details}`);
  sub.exitOverride().copyInheritedSettings(program);
  sub.helpOption("-h, --help", "show this");
  if (command.argument) {
    const { name, required, help } = command.argument;
    sub.argument(required ? `<${name}>` : `[${name}]`, help);
  }
  for (const key of command.options) for (const option of commanderOptions(command, key)) sub.addOption(option);
  sub.option("--json", "print one JSON object on standard output; text for people goes to standard error");
  sub.option("--debug", "print the stack of an error");
  sub.addHelpText(
    "after",
    `\nExamples:\n${command.examples.map(({ line, says }) => `  qdylora ${line}\n      ${says}`).join("\n")}`,
  );
  return sub;
}

function commanderOptions(command: CommandSpec, key: OptionKey): Option[] {
  const spec = specOf(key);
  const name = `--${flagName(key)}`;
  const required = command.required?.includes(key) && !command.configFile ? " (required)" : "";
  const value = defaultFor(command, key);
  const help = `${spec.help}${value === null ? required : ` (default: ${value})`}`;
  const flags = spec.short ? `-${spec.short}, ${name}` : name;
  if (spec.type.placeholder !== "") return [new Option(`${flags} <${spec.type.placeholder}>`, help)];
  return [new Option(flags, help), new Option(`--no-${flagName(key)}`).hideHelp()];
}

/** The default of an option of a command, as people read it, or null. */
export function defaultFor(command: CommandSpec, key: OptionKey): string | null {
  const own = command.defaults?.[key];
  if (own === null) return null;
  return own === undefined ? defaultTextOf(key) : specOf(key).type.show(own);
}
