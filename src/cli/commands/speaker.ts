// Which model generate and chat let speak.

import type { SpeakerSettings } from "../../verbs/generate.ts";
import { throwProblems } from "../../verbs/problems.ts";
import type { Context } from "../command.ts";
import type { OptionValues } from "../options.ts";
import type { ADAPTER_OPTIONS } from "./shared.ts";

type Values = OptionValues<(typeof ADAPTER_OPTIONS)[number] | "rank">;

/** The adapter of the argument, or the base of --model. Throws CONFIG_INVALID if neither is given. */
export function speakerOf(values: Values, { argument, onDownload }: Context): SpeakerSettings {
  if (argument !== undefined) return { ...values, onDownload, adapter: argument };
  if (values.model === undefined)
    throwProblems("generate", [
      { key: "adapter", path: "ADAPTER", expected: "an adapter's folder, or --model for the base alone" },
    ]);
  return { ...values, onDownload, model: values.model! };
}
