// The programs that build for 64-bit Arm and run it here.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";

export interface CrossTools {
  readonly compiler: string;
  readonly objdump: string;
  readonly qemu: string;
  /** Where the emulated process finds its loader and libraries. */
  readonly prefix: string;
  /** First lines of what the compiler and the emulator say of themselves. */
  readonly versions: readonly string[];
}

const COMPILER = "aarch64-linux-gnu-g++";
const OBJDUMP = "aarch64-linux-gnu-objdump";
const EMULATORS = ["qemu-aarch64", "qemu-aarch64-static"];

/** Throws what to install if one is not there. */
export async function findCrossTools(): Promise<CrossTools> {
  const compilerVersion = await versionOf(COMPILER);
  const objdumpVersion = await versionOf(OBJDUMP);
  const emulators = await Promise.all(EMULATORS.map(versionOf));
  const found = emulators.findIndex((version) => version !== null);
  const missing = [
    ...(compilerVersion === null || objdumpVersion === null
      ? [`${COMPILER} and its objdump (g++-aarch64-linux-gnu)`]
      : []),
    ...(found < 0 ? [`${EMULATORS.join(" or ")} (qemu-user)`] : []),
  ];
  if (missing.length > 0)
    throw new Error(
      `verify:neon needs ${missing.join(", and ")}. Debian, Ubuntu: apt install g++-aarch64-linux-gnu qemu-user`,
    );
  const loader = (await output(COMPILER, ["-print-file-name=ld-linux-aarch64.so.1"])).trim();
  return {
    compiler: COMPILER,
    objdump: OBJDUMP,
    qemu: EMULATORS[found]!,
    prefix: join(loader, "../.."),
    versions: [compilerVersion!, emulators[found]!],
  };
}

/** What a program prints; throws if it fails. */
export async function output(program: string, args: readonly string[]): Promise<string> {
  return (await promisify(execFile)(program, [...args], { maxBuffer: 1 << 28 })).stdout;
}

async function versionOf(program: string): Promise<string | null> {
  try {
    return (await output(program, ["--version"])).split("\n")[0]!;
  } catch {
    return null;
  }
}
