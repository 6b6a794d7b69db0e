// The CPU backend: every instruction set that this machine can run obeys the contract; the loader never chooses more than
// the CPU has; the number of threads never changes a bit.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { ISAS, type Isa } from "../../src/backends/cpu/build.ts";
import { availableIsas, openCpu } from "../../src/backends/cpu/cpu.ts";
import { openBackend } from "../../src/backends/open.ts";
import { conformance } from "./conformance.ts";
import { threadsChangeNoBit } from "./threads.ts";

const isas = await availableIsas();
if (isas.length === 0) throw new Error("no instruction set can be tested");

for (const isa of isas) await conformance(`cpu ${isa}`, () => openBackend("cpu", { isa, threads: 2 }));

describe("the choice of instruction set", () => {
  it("starts with what every CPU of the architecture has and lists known ones in order", () => {
    expect(isas[0]).toBe(process.arch === "arm64" ? "neon" : "baseline");
    expect(ISAS.filter((isa) => isas.includes(isa))).toEqual(isas);
  });

  it("never goes beyond what the CPU reports", () => {
    if (!["x64", "arm64"].includes(process.arch)) return expect(isas).toEqual(["baseline"]);
    const flags = new Set(reportedFlags());
    const needs: Readonly<Record<Isa, readonly string[]>> = {
      baseline: [],
      avx2: ["avx2", "fma"],
      avx512: ["avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"],
      avx512bf16: ["avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"],
      neon: [],
      neonbf16: ["bf16"],
    };
    for (const isa of isas) expect(needs[isa].filter((flag) => !flags.has(flag))).toEqual([]);
  });

  it("takes the best one by default", async () => {
    await using backend = await openCpu();
    expect(backend.instructionSet).toContain(isas.at(-1));
  });

  it("refuses one that the CPU lacks, and says what it has", async () => {
    await expect(openCpu({ isa: "sse9" })).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
      details: { available: isas },
    });
  });

  it("refuses a thread count that is none", async () => {
    for (const threads of [0, 1.5, -1]) await expect(openCpu({ threads })).rejects.toThrow(/threads is/);
  });
});

await threadsChangeNoBit("cpu", (threads) => openCpu({ threads }));

/** The system's own list of CPU features. */
function reportedFlags(): string[] {
  const sysctl = (...args: string[]) => execFileSync("sysctl", ["-n", ...args], { encoding: "utf8" });
  if (process.platform !== "linux" && process.arch === "arm64")
    return sysctl("hw.optional.arm.FEAT_BF16").trim() === "1" ? ["bf16"] : [];
  const text =
    process.platform === "linux"
      ? /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))![1]!
      : sysctl("machdep.cpu.features", "machdep.cpu.leaf7_features");
  return text.trim().toLowerCase().split(/\s+/);
}
