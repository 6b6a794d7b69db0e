// The kernel library of another architecture as this process sees its own: kernel-host.cc runs it under qemu's user-mode
// emulation and obeys commands over two named pipes. Calls wait for their answer, as calls into a library do.

import { spawn } from "node:child_process";
import { closeSync, constants, openSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { NativeLibrary } from "../../src/backends/cpu/ffi.ts";
import { type CrossTools, output } from "./cross-tools.ts";

/** As in kernel-host.cc. */
const COMMANDS = {
  variant: 0,
  variantRuns: 1,
  op: 2,
  open: 3,
  close: 4,
  run: 5,
  peak: 6,
  alloc: 7,
  free: 8,
  copyIn: 9,
  copyOut: 10,
} as const;

type Arguments = readonly [a?: number, b?: number, c?: number, d?: number];

export interface EmulatedLibrary extends NativeLibrary {
  /** Ends the emulated process. */
  end(): void;
}

/** Starts `host` on an emulated CPU of this model; its pipes lie in `folder`. */
export async function emulatedLibrary(
  tools: CrossTools,
  host: string,
  folder: string,
  cpu: string,
): Promise<EmulatedLibrary> {
  const requests = await namedPipe(join(folder, `${cpu}.requests`));
  const answers = await namedPipe(join(folder, `${cpu}.answers`));
  const child = spawn(tools.qemu, ["-L", tools.prefix, "-cpu", cpu, host], {
    stdio: [requests.read, answers.write, "inherit"],
  });
  // With these ends in the child's hands alone, its death ends the pipes.
  closeSync(requests.read);
  closeSync(answers.write);

  const send = (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.byteLength; ) at += writeSync(requests.write, bytes, at);
  };
  const receive = (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.byteLength; ) {
      const got = readSync(answers.read, bytes, at, bytes.byteLength - at, null);
      if (got === 0) throw new Error(`the process on the emulated ${cpu} ended (what it said stands above)`);
      at += got;
    }
  };
  const call = (command: keyof typeof COMMANDS, args: Arguments, sent: Uint8Array = NOTHING, got?: Uint8Array) => {
    const [a = 0, b = 0, c = 0, d = 0] = args;
    send(bytesOf(Float64Array.of(COMMANDS[command], a, b, c, d, sent.byteLength)));
    send(sent);
    const head = new Float64Array(2);
    receive(bytesOf(head));
    const bytes = got ?? new Uint8Array(head[1]!);
    if (bytes.byteLength !== head[1])
      throw new Error(`${command}: ${head[1]} bytes came, expected ${bytes.byteLength}`);
    receive(bytes);
    return { value: head[0]!, bytes };
  };

  return {
    variant: (number) => {
      const { value, bytes } = call("variant", [number]);
      return value === 0 ? null : new TextDecoder().decode(bytes);
    },
    variantRuns: (number) => call("variantRuns", [number]).value,
    op: (name) => call("op", [], new TextEncoder().encode(name)).value,
    open: (variant, threads) => call("open", [variant, threads]).value,
    close: (context) => void call("close", [context]),
    run: (context, op, words, scratch) => void call("run", [context, op, scratch], bytesOf(words)),
    peak: (context, dtype, seconds) => call("peak", [context, dtype, 0, seconds]).value,
    alloc: (bytes) => call("alloc", [bytes]).value,
    free: (address, bytes) => void call("free", [address, bytes]),
    copyIn: (address, from, bytes) => void call("copyIn", [address], from.subarray(0, bytes)),
    copyOut: (to, address, bytes) => void call("copyOut", [address, bytes], NOTHING, to.subarray(0, bytes)),
    end: () => {
      closeSync(requests.write);
      closeSync(answers.read);
      child.kill();
    },
  };
}

const NOTHING: Uint8Array = new Uint8Array(0);

const bytesOf = (values: Float64Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** Both ends of a new named pipe, as file descriptors that block. */
async function namedPipe(path: string): Promise<{ read: number; write: number }> {
  await output("mkfifo", [path]);
  // To open one end waits for the other; a reader that does not wait is there until both are open.
  const first = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const write = openSync(path, constants.O_WRONLY);
  const read = openSync(path, constants.O_RDONLY);
  closeSync(first);
  return { read, write };
}
