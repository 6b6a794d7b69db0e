// The CPU backend: every instruction set that this machine can run obeys the contract; the loader never chooses more than
// the CPU has; the number of threads never changes a bit.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { ISAS, type Isa } from "../../src/backends/cpu/build.ts";
import { availableIsas, type CpuBackend, openCpu } from "../../src/backends/cpu/cpu.ts";
import { openBackend } from "../../src/backends/open.ts";
import { OPS, type OpName } from "../../src/ops/index.ts";
import { type OpArgs, tensorsOf } from "../../src/ops/op.ts";
import { matrix } from "../../src/tensor/tensor.ts";
import { type AnyOp, type AnyRunner, conformance, isOutput } from "./conformance.ts";
import { sampleMaker } from "./sampling.ts";
import { DENSE, upload } from "./upload.ts";

const isas = await availableIsas();
if (isas.length === 0) throw new Error("no instruction set can be tested");

for (const isa of isas) await conformance(`cpu ${isa}`, () => openBackend("cpu", { isa, threads: 2 }));

describe("the choice of instruction set", () => {
  it("starts with the baseline and lists known ones in order", () => {
    expect(isas[0]).toBe("baseline");
    expect(ISAS.filter((isa) => isas.includes(isa))).toEqual(isas);
  });

  it("never goes beyond what the CPU reports", () => {
    if (process.arch !== "x64") return expect(isas).toEqual(["baseline"]);
    const flags = new Set(reportedFlags());
    const needs: Readonly<Record<Isa, readonly string[]>> = {
      baseline: [],
      avx2: ["avx2", "fma"],
      avx512: ["avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"],
      avx512bf16: ["avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"],
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

describe("the number of threads changes no bit of", () => {
  afterAll(async () => {
    for (const backend of backends.values()) await (await backend)[Symbol.asyncDispose]();
  });
  for (const [name, op] of Object.entries(OPS) as [OpName, AnyOp][])
    it(name, async () => {
      for (const sample of op.samples)
        for (const dtype of ["f32", "bf16"] as const) {
          if (!sample.dtypes.includes(dtype)) continue;
          const args = () => sample.make(sampleMaker(dtype, `${name} ${sample.name}`));
          const one = await outputsWith(1, op, args());
          expect(one.length).toBeGreaterThan(0);
          for (const threads of [2, 3]) expect(await outputsWith(threads, op, args()), sample.name).toEqual(one);
        }
    });
});

/** The system's own list of CPU features. */
function reportedFlags(): string[] {
  const text =
    process.platform === "linux"
      ? /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))![1]!
      : execFileSync("sysctl", ["-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"], { encoding: "utf8" });
  return text.trim().toLowerCase().split(/\s+/);
}

const backends = new Map<number, Promise<CpuBackend>>();

/** The bytes of every output after one call. */
async function outputsWith(threads: number, op: AnyOp, host: OpArgs): Promise<Uint8Array[]> {
  if (!backends.has(threads)) backends.set(threads, openCpu({ threads }));
  const backend = await backends.get(threads)!;
  const loaded = upload(backend, host, DENSE);
  const runner: AnyRunner = backend;
  const bytes = runner.scratchBytes(op.name as OpName, loaded.args);
  const scratch = bytes > 0 ? backend.alloc(bytes, "scratch") : null;
  try {
    runner.run(op.name as OpName, loaded.args, scratch && matrix(scratch, "u8", 1, bytes));
    const outputs = tensorsOf(loaded.args).filter(({ key }) => isOutput(op, key));
    return await Promise.all(outputs.map(({ tensor }) => backend.read(tensor.buffer as never, 0, tensor.buffer.bytes)));
  } finally {
    scratch?.dispose();
    loaded.dispose();
  }
}
