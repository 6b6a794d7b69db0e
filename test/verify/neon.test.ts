// `npm run verify:neon`: the kernel library compiled for 64-bit Arm obeys the contract, every variant on an emulated CPU,
// and neither its choice of variant nor a build of it goes beyond what the CPU has. `neon` runs on a CPU without bf16, so an
// instruction of that extension in it would end the process.
// Needs g++-aarch64-linux-gnu and qemu-user. QDYLORA_PRINT=1 prints the lines for docs/verify-results.md.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { compileLibrary, type Isa } from "../../src/backends/cpu/build.ts";
import { openCpuOf } from "../../src/backends/cpu/cpu.ts";
import { conformance } from "../ops/conformance.ts";
import { threadsChangeNoBit } from "../ops/threads.ts";
import { findCrossTools, output } from "./cross-tools.ts";
import { emulatedLibrary } from "./emulated-library.ts";

/** Instructions of the bf16 extension. */
const BF16_INSTRUCTION = /^bf(mmla|dot|cvt|mlal)/;

const tools = await findCrossTools();
const folder = await mkdtemp(join(tmpdir(), "qdylora-neon-"));
const file = await compileLibrary(tools.compiler, folder, "arm64");
const host = join(folder, "kernel-host");
const source = fileURLToPath(new URL("kernel-host.cc", import.meta.url));
await output(tools.compiler, ["-O2", "-Wall", "-Wextra", source, file, `-Wl,-rpath,${folder}`, "-o", host]);

const max = await emulatedLibrary(tools, host, folder, "max");
const cortex = await emulatedLibrary(tools, host, folder, "cortex-a72");

afterAll(async () => {
  max.end();
  cortex.end();
  await rm(folder, { recursive: true, force: true });
  print(tools.versions.join("; "));
});

const threads = 2;
await conformance("cpu neon on a Cortex-A72", async () => openCpuOf(cortex, { isa: "neon", threads }));
await conformance("cpu neonbf16 on a CPU with every extension", async () =>
  openCpuOf(max, { isa: "neonbf16", threads }),
);

await threadsChangeNoBit("cpu neonbf16", async (threads) => openCpuOf(max, { isa: "neonbf16", threads }));

describe("the choice of variant", () => {
  it("is neonbf16 where the CPU has bf16 products", async () => {
    await using backend = openCpuOf(max, { threads });
    expect(backend).toMatchObject({ instructionSet: "neonbf16", computeDtype: "bf16" });
  });

  it("is neon where it has none, and neonbf16 is refused", async () => {
    await using backend = openCpuOf(cortex, { threads });
    expect(backend).toMatchObject({ instructionSet: "neon", computeDtype: "f32" });
    expect(() => openCpuOf(cortex, { isa: "neonbf16", threads })).toThrow(/expected one that this CPU has: neon$/);
  });
});

describe("the instructions", () => {
  it("of products are fused and in vectors; those of bf16 stand in neonbf16 alone", async () => {
    const counts = await instructionCounts(file);
    const of = (isa: Isa | "", pattern: RegExp) =>
      [...counts.get(isa)!].filter(([name]) => pattern.test(name)).reduce((sum, [, count]) => sum + count, 0);
    for (const isa of ["neon", "neonbf16"] as const) {
      const shown = ["fmla", "tbl", "bfmmla", "bfdot", "bfcvtn"].map(
        (name) => `${name} ${counts.get(isa)!.get(name) ?? 0}`,
      );
      print(`${isa}: ${shown.join(", ")}`);
      expect(of(isa, /^fmla$/)).toBeGreaterThan(100);
      expect(of(isa, /^tbl$/)).toBeGreaterThan(0);
    }
    expect(of("neonbf16", /^bfmmla$/)).toBeGreaterThan(100);
    expect(of("neonbf16", /^bfdot$/)).toBeGreaterThan(0);
    expect(of("neon", BF16_INSTRUCTION)).toBe(0);
    expect(of("", BF16_INSTRUCTION)).toBe(0);
  });
});

/** How often each instruction stands in the functions of each variant, and under "" in all others. */
async function instructionCounts(library: string): Promise<Map<Isa | "", Map<string, number>>> {
  const counts = new Map<Isa | "", Map<string, number>>([
    ["neon", new Map()],
    ["neonbf16", new Map()],
    ["", new Map()],
  ]);
  let current = counts.get("")!;
  for (const line of (await output(tools.objdump, ["-d", "--no-show-raw-insn", library])).split("\n")) {
    const symbol = /^[0-9a-f]+ <(.*)>:$/.exec(line)?.[1];
    if (symbol !== undefined)
      current = counts.get(symbol.includes("8neonbf16") ? "neonbf16" : symbol.includes("4neon") ? "neon" : "")!;
    const name = /^ *[0-9a-f]+:\t(\S+)/.exec(line)?.[1];
    if (name !== undefined) current.set(name, (current.get(name) ?? 0) + 1);
  }
  return counts;
}

function print(line: string): void {
  if (process.env.QDYLORA_PRINT) process.stdout.write(`${line}\n`);
}
