// Every command, in the order of --help.

import type { CommandSpec } from "../command.ts";
import { benchCommand } from "./bench.ts";
import { chatCommand } from "./chat.ts";
import { compressCommand } from "./compress.ts";
import { convertCommand } from "./convert.ts";
import { doctorCommand } from "./doctor.ts";
import { estimateCommand } from "./estimate.ts";
import { evalCommand } from "./eval.ts";
import { exportCommand } from "./export.ts";
import { generateCommand } from "./generate.ts";
import { inspectCommand } from "./inspect.ts";
import { quantizeCommand } from "./quantize.ts";
import { quickstartCommand } from "./quickstart.ts";
import { trainCommand } from "./train.ts";

// A command's `run` takes only the values of its own options; parsing gives it exactly those.
export const COMMANDS = [
  quickstartCommand,
  trainCommand,
  evalCommand,
  generateCommand,
  chatCommand,
  exportCommand,
  compressCommand,
  quantizeCommand,
  convertCommand,
  estimateCommand,
  inspectCommand,
  doctorCommand,
  benchCommand,
] as unknown as readonly CommandSpec[];
