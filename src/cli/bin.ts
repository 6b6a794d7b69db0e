#!/usr/bin/env node
// The process behind `qdylora`: real streams, real signals, the exit code.

import { createInterface } from "node:readline";
import type { Io } from "./io.ts";
import { main } from "./main.ts";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

const io: Io = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  interactive: process.stderr.isTTY === true && process.env.TERM !== "dumb",
  outIsTerminal: process.stdout.isTTY === true,
  get columns() {
    return process.stderr.columns ?? 80;
  },
  env: process.env,
  lines: () => createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY }),
  inIsTerminal: process.stdin.isTTY === true,
  onInterrupt(handler) {
    for (const signal of SIGNALS) process.on(signal, handler);
    return () => {
      for (const signal of SIGNALS) process.off(signal, handler);
    };
  },
  exit: (code) => process.exit(code),
};

// A reader that closes early (`qdylora … | head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});

process.exitCode = await main(process.argv.slice(2), io);
