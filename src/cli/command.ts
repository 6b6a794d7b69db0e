// What a command is: data from which flags, help and docs are made, and the function behind it.

import type { HubProgress } from "../formats/node-hub.ts";
import type { Io } from "./io.ts";
import type { OptionKey, OptionValues } from "./options.ts";
import type { Style } from "./style.ts";

export interface Example {
  /** What is typed after `qdylora`. */
  readonly line: string;
  readonly says: string;
}

export interface Argument {
  readonly name: string;
  readonly required: boolean;
  readonly help: string;
}

export interface CommandSpec<K extends OptionKey = OptionKey> {
  readonly name: string;
  /** One line for lists. */
  readonly summary: string;
  /** A few sentences that teach. */
  readonly details: string;
  readonly argument?: Argument;
  /** The argument is a YAML file with this command's options. */
  readonly configFile?: boolean;
  readonly options: readonly K[];
  readonly required?: readonly K[];
  /** Defaults that differ from the option table's; null: none, the library decides. */
  readonly defaults?: OptionValues<K> | { readonly [P in K]?: null };
  readonly examples: readonly Example[];
  /** Does the work, tells people, and returns the object that --json prints (undefined: it printed its own lines). */
  run(values: OptionValues<K>, context: Context): Promise<unknown>;
}

/** What a running command has at hand. */
export interface Context {
  readonly io: Io;
  readonly style: Style;
  readonly json: boolean;
  readonly argument: string | undefined;
  /** A result for people: standard output, or standard error when that is taken by --json. */
  say(text: string): void;
  /** Shows how far a model's download is: for every verb that opens a model. */
  readonly onDownload: (progress: HubProgress) => void;
  /** A note on the way: standard error. */
  note(text: string): void;
}

/** Keeps the option names of a command so that `run` sees exactly its own values. */
export const defineCommand = <const K extends OptionKey>(spec: CommandSpec<K>): CommandSpec<K> => spec;
