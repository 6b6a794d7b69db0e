import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { COMMANDS } from "../../src/cli/commands/index.ts";
import { cliMarkdown, errorsMarkdown } from "../../src/cli/docs.ts";

const stored = (name: string): string => readFileSync(new URL(`../../docs/${name}`, import.meta.url), "utf8");

test.each([
  ["cli.md", cliMarkdown(COMMANDS)],
  ["errors.md", errorsMarkdown()],
])("docs/%s is current (`npm run docs` writes it)", (name, expected) => {
  expect(stored(name)).toBe(expected);
});
