// Compiles the kernel library: kernels/variant.cc once per instruction set, and the rest for the baseline CPU, which alone
// decides at load time what may run. Called after `npm install` of a checkout (as a program) and at first use (by cpu.ts).
// The output's folder is named by a hash of sources and flags, so a stale library is never loaded; files appear by rename,
// so that processes can race.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { QdlError } from "../../errors.ts";

/** Instruction sets; those of one architecture stand slowest first. */
export const ISAS = ["baseline", "avx2", "avx512", "avx512bf16", "neon", "neonbf16"] as const;
export type Isa = (typeof ISAS)[number];

/** Those of an architecture of which more than the baseline is known. Its first one runs on every CPU of it. */
const ISAS_OF: Readonly<Record<string, readonly Isa[]>> = {
  x64: ["baseline", "avx2", "avx512", "avx512bf16"],
  arm64: ["neon", "neonbf16"],
};

/** Whether products of bf16 activations take bf16 as it is. */
export const hasBf16Products = (isa: Isa): boolean => isa === "avx512bf16" || isa === "neonbf16";

/** A prefetch of a line to write is a no-op on the CPUs with AVX2 that lack it: it needs no check. */
const AVX2 = ["-mavx2", "-mfma", "-mprfchw"];
const AVX512 = [...AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"];
/** GCC's default for Arm, unlike for x86, moves loads up before registers are given out: sums of a tile would spill. */
const NEON = ["-fno-schedule-insns"];

/**
 * -m flags per instruction set; what a compiler does not know is left out. No -march on x86: it would allow more than cpuid
 * checks. On Arm bf16 is an extension of Armv8.2: a CPU that has it, has that.
 */
const MACHINE_FLAGS: Readonly<Record<Isa, readonly string[]>> = {
  baseline: [],
  avx2: AVX2,
  avx512: AVX512,
  avx512bf16: [...AVX512, "-mavx512bf16"],
  neon: NEON,
  neonbf16: [...NEON, "-march=armv8.2-a+bf16"],
};

/** No contraction to fma: exact ops must round where the contract says. Errno and traps are not looked at. */
const COMMON_FLAGS = [
  "-std=c++17",
  "-O3",
  "-fPIC",
  "-fvisibility=hidden",
  "-ffp-contract=off",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-pthread",
];

// src/backends/cpu or dist/backends/cpu: the package root is three folders up in both.
const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const SOURCES = join(ROOT, "src/backends/cpu/kernels");
const LIBRARY = "libqdylora.so";

/** The library's file, compiled now if it is not there. Throws BACKEND_UNAVAILABLE with the fix. */
export async function findOrBuildLibrary(): Promise<string> {
  const folders = outputFolders();
  const found = folders.map((folder) => join(folder, LIBRARY)).find((file) => existsSync(file));
  if (found) return found;
  const compiler = await findCompiler();
  if (!compiler)
    throw new QdlError(
      "BACKEND_UNAVAILABLE",
      "cpu: there is no compiled kernel library, and no C++ compiler to make it",
      {
        hint: "Install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or name it in CXX.",
        details: { lookedIn: folders, tried: compilerNames() },
      },
    );
  const folder = folders.find(isWritable);
  if (!folder)
    throw new QdlError(
      "BACKEND_UNAVAILABLE",
      `cpu: no folder for the kernel library can be written: ${folders.join(", ")}`,
      {
        hint: "Make one of them writable, or set XDG_CACHE_HOME.",
        details: { folders },
      },
    );
  return compileLibrary(compiler, folder, process.arch);
}

function outputFolders(): string[] {
  const name = join("cpu", sourceHash());
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return [join(ROOT, "build", name), join(cache, "qdylora", name)];
}

function sourceHash(): string {
  const hash = createHash("sha256").update(
    JSON.stringify([COMMON_FLAGS, MACHINE_FLAGS, process.platform, process.arch]),
  );
  for (const file of readdirSync(SOURCES).sort()) hash.update(file).update(readFileSync(join(SOURCES, file)));
  return hash.digest("hex").slice(0, 16);
}

function isWritable(folder: string): boolean {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

const compilerNames = (): string[] => [process.env.CXX, "c++", "g++", "clang++"].filter((name) => !!name) as string[];

async function findCompiler(): Promise<string | null> {
  for (const name of compilerNames()) if ((await tryRun(name, ["--version"])) === null) return name;
  return null;
}

/** Compiles for an architecture (a name as of `process.arch`) with a compiler whose output is for it. Returns the file. */
export async function compileLibrary(compiler: string, folder: string, arch: string): Promise<string> {
  const isas = await acceptedBy(compiler, arch);
  const temporary = (name: string) => join(folder, `${name}.${process.pid}.tmp`);
  const units = [
    ...isas.map((isa) => ({ name: isa, source: "variant.cc", flags: [...MACHINE_FLAGS[isa], `-DQDL_ISA=${isa}`] })),
    { name: "pool", source: "pool.cc", flags: [] },
    { name: "library", source: "library.cc", flags: isas.map((isa) => `-DQDL_WITH_${isa.toUpperCase()}`) },
  ];
  const objects = units.map((unit) => temporary(`${unit.name}.o`));
  const output = temporary(LIBRARY);
  try {
    await inParallel(units, availableParallelism(), (unit, i) =>
      compilerRun(compiler, [...COMMON_FLAGS, ...unit.flags, "-c", join(SOURCES, unit.source), "-o", objects[i]!]),
    );
    await compilerRun(compiler, ["-shared", "-pthread", ...objects, "-o", output]);
    renameSync(output, join(folder, LIBRARY));
    return join(folder, LIBRARY);
  } finally {
    for (const file of [...objects, output]) rmSync(file, { force: true });
  }
}

/** The instruction sets of the architecture whose flags the compiler knows. */
async function acceptedBy(compiler: string, arch: string): Promise<Isa[]> {
  const isas = ISAS_OF[arch] ?? ["baseline"];
  const accepted = await Promise.all(
    isas.map(async (isa) => (await tryRun(compiler, [...MACHINE_FLAGS[isa], "-x", "c++", "-E", "/dev/null"])) === null),
  );
  return isas.filter((_, i) => accepted[i]);
}

async function compilerRun(compiler: string, args: readonly string[]): Promise<void> {
  const failure = await tryRun(compiler, args);
  if (failure !== null)
    throw new QdlError("BACKEND_UNAVAILABLE", `cpu: ${compiler} could not compile the kernel library`, {
      hint: "A C++17 compiler is needed: GCC 9, Clang 10, or newer. CXX names another one.",
      details: { command: [compiler, ...args].join(" "), output: failure },
    });
}

/** null if the command ran and succeeded, else what it printed. */
function tryRun(command: string, args: readonly string[]): Promise<string | null> {
  return new Promise((resolve) => {
    execFile(command, args, { maxBuffer: 1 << 26 }, (error, _, stderr) =>
      resolve(error ? stderr || error.message : null),
    );
  });
}

async function inParallel<T>(items: readonly T[], width: number, work: (item: T, i: number) => Promise<void>) {
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < items.length; i = next++) await work(items[i]!, i);
  };
  await Promise.all(Array.from({ length: width }, worker));
}

/** As a program: an install without a compiler is complete but for this backend, so it is told and not failed. */
async function main(): Promise<void> {
  try {
    process.stderr.write(`kernel library: ${await findOrBuildLibrary()}\n`);
  } catch (error) {
    if (!(error instanceof QdlError)) throw error;
    const output = error.details.output;
    process.stderr.write(`${error.message}\n${error.hint ?? ""}\n${typeof output === "string" ? output : ""}\n`);
    if (output !== undefined) process.exitCode = 1;
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
