// The Python of the checks against other people's programs.

import { execFile } from "node:child_process";
import { promisify } from "node:util";

/** What it prints: `python3`, or the interpreter named in QDYLORA_PYTHON. Throws what to install, or what it says. */
export async function python(args: readonly string[]): Promise<string> {
  const interpreter = process.env.QDYLORA_PYTHON || "python3";
  try {
    const { stdout } = await promisify(execFile)(interpreter, args, { maxBuffer: 1 << 26 });
    return stdout;
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    if (code === "ENOENT")
      throw new Error(
        `${interpreter} was not found. Install Python with torch, transformers, peft, bitsandbytes, accelerate, safetensors and numpy, or name one in QDYLORA_PYTHON.`,
      );
    throw new Error(stderr?.trim() || String(error));
  }
}
