import { describe, expect, test } from "vitest";
import { COMMANDS } from "../../src/cli/commands/index.ts";
import { flagName, OPTIONS, type OptionKey, specOf } from "../../src/cli/options.ts";
import { parseArguments } from "../../src/cli/program.ts";
import { parseValues } from "../../src/cli/values.ts";
import { version } from "../../src/verbs/version.ts";
import { qdylora } from "./tiny-project.ts";

const train = COMMANDS.find(({ name }) => name === "train")!;
const values = (flags: Record<string, unknown>, yaml: Record<string, unknown> = {}) =>
  parseValues(
    train,
    flags,
    Object.entries(yaml).map(([key, value]) => ({ key, value, path: `c.yaml:1 ${key}` })),
  );

describe("the option table", () => {
  test("is used throughout: every option belongs to a command", () => {
    const used = new Set(COMMANDS.flatMap(({ options }) => options));
    expect((Object.keys(OPTIONS) as OptionKey[]).filter((key) => !used.has(key))).toEqual([]);
  });

  test("reads back its own defaults", () => {
    for (const key of Object.keys(OPTIONS) as OptionKey[]) {
      const { default: value, type } = specOf(key);
      if (value === undefined || typeof value === "boolean") continue;
      expect(type.schema.parse(type.show(value)), key).toEqual(value);
    }
  });

  test("gives flags and YAML the same values", () => {
    const flags = values({
      rankMax: "8",
      ranks: "1, 2,8",
      lr: "1e-3",
      memory: "1.5GiB",
      packing: true,
      targets: "q_proj,v_proj",
      distribution: "weights:1,2,0.5",
      heldOut: "0.1",
    });
    const yaml = values(
      {},
      {
        "rank-max": 8,
        ranks: [1, 2, 8],
        lr: 0.001,
        memory: 1.5 * 2 ** 30,
        packing: true,
        targets: ["q_proj", "v_proj"],
        distribution: { kind: "weights", weights: [1, 2, 0.5] },
        "held-out": 0.1,
      },
    );
    expect(flags.values).toEqual(yaml.values);
    expect(flags.values).toMatchObject({
      rankMax: 8,
      ranks: [1, 2, 8],
      memory: 1610612736,
      heldOut: 0.1,
      distribution: { kind: "weights", weights: [1, 2, 0.5] },
    });
  });

  test.each([
    ["uniform", { kind: "uniform" }],
    ["range", { kind: "range" }],
    ["geometric:0.15", { kind: "geometric", p: 0.15 }],
    ["mixture:0.5", { kind: "mixture", share: 0.5 }],
  ])("distribution %s", (text, expected) => {
    expect(values({ distribution: text }).values.distribution).toEqual(expected);
  });

  test.each(["geometric", "geometric:x", "uniform:1", "weights:", "fair"])("distribution %s is refused", (text) => {
    expect(values({ distribution: text }).problems.map(({ key }) => key)).toContain("distribution");
  });

  test.each([
    ["24GiB", 24 * 2 ** 30],
    ["900MB", 9e8],
    ["1 kib", 1024],
  ])("size %s", (text, bytes) => {
    expect(values({ memory: text }).values.memory).toBe(bytes);
  });

  test("a flag wins over the file, which wins over the default", () => {
    expect(values({ lr: "3" }, { lr: 2, clip: 9 }).values).toMatchObject({ lr: 3, clip: 9, beta2: 0.999 });
  });
});

describe("help", () => {
  test.each(COMMANDS.map(({ name }) => name))(
    "%s --help teaches: options with defaults, and examples",
    async (name) => {
      const { code, out } = await qdylora([name, "--help"]);
      const command = COMMANDS.find((command) => command.name === name)!;
      expect(code).toBe(0);
      expect(out).toContain("Examples:");
      for (const key of command.options) expect(out).toContain(`--${flagName(key)}`);
    },
  );

  test("examples can be typed: each parses", () => {
    for (const { examples } of COMMANDS)
      for (const { line } of examples) {
        const words = [...line.replace(/<.*$/, "").matchAll(/"([^"]*)"|(\S+)/g)].map(
          ([, quoted, bare]) => quoted ?? bare!,
        );
        expect(() => parseArguments(words, COMMANDS, version), line).not.toThrow();
      }
  });

  test("nothing, --help and --version", async () => {
    expect((await qdylora([])).out).toContain("quickstart");
    expect((await qdylora(["--help"])).out).toContain("Usage: qdylora");
    expect((await qdylora(["--version"])).out).toBe(`${version}\n`);
  });
});
