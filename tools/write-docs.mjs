// Writes the pages of docs/ that come from the program's own tables. Needs a build: `npm run docs` makes one.

import { writeFileSync } from "node:fs";
import { COMMANDS } from "../dist/cli/commands/index.js";
import { cliMarkdown, errorsMarkdown } from "../dist/cli/docs.js";

const write = (name, text) => writeFileSync(new URL(`../docs/${name}`, import.meta.url), text);
write("cli.md", cliMarkdown(COMMANDS));
write("errors.md", errorsMarkdown());
