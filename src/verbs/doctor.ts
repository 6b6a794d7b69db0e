// doctor: whether this machine can run qdylora, and what to do where it cannot.

import { stat } from "node:fs/promises";
import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";
import { BACKEND_NAMES, openBackend } from "../backends/open.ts";
import { QdlError } from "../errors.ts";
import { bundledBase } from "./bundled.ts";
import { version } from "./version.ts";

export interface Finding {
  readonly name: string;
  readonly ok: boolean;
  /** false: qdylora runs without it, and more slowly. */
  readonly needed: boolean;
  readonly detail: string;
  /** What to do, where something is wrong. */
  readonly hint: string | null;
}

export interface Diagnosis {
  readonly ok: boolean;
  readonly findings: readonly Finding[];
}

const OLDEST_NODE = [20, 19] as const;

/** Looks at Node, memory, every backend and the bundled base. Uses no network. Throws nothing. */
export async function doctor(): Promise<Diagnosis> {
  const findings = [
    { name: "qdylora", ok: true, needed: true, detail: version, hint: null },
    nodeFinding(),
    machineFinding(),
  ];
  for (const name of BACKEND_NAMES) findings.push(await backendFinding(name));
  findings.push(await bundledFinding());
  return { ok: findings.every(({ ok, needed }) => ok || !needed), findings };
}

function nodeFinding(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const ok = major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1]);
  return {
    name: "node",
    ok,
    needed: true,
    detail: process.version,
    hint: ok ? null : `Install Node ${OLDEST_NODE.join(".")} or newer.`,
  };
}

function machineFinding(): Finding {
  const gib = (totalmem() / 2 ** 30).toFixed(1);
  return {
    name: "machine",
    ok: true,
    needed: true,
    detail: `${process.platform} ${process.arch}, ${availableParallelism()} cores, ${gib} GiB of memory`,
    hint: null,
  };
}

async function backendFinding(backend: (typeof BACKEND_NAMES)[number]): Promise<Finding> {
  const name = `backend ${backend}`;
  // A GPU is a choice; the others run everywhere.
  const needed = backend !== "cuda";
  try {
    await using opened = await openBackend(backend);
    const detail = [opened.description, ...(opened.libraries ?? [])].join("; ");
    return { name, ok: true, needed, detail, hint: null };
  } catch (error) {
    const hint = error instanceof QdlError ? (error.hint ?? null) : null;
    return { name, ok: false, needed, detail: error instanceof Error ? error.message : String(error), hint };
  }
}

async function bundledFinding(): Promise<Finding> {
  const found = await stat(join(bundledBase(), "config.json")).catch(() => null);
  const hint = found ? null : "Install the package again: `npm ci` in a clone, or `npm install qdylora`.";
  const detail = found ? "present" : `missing at ${bundledBase()}`;
  return { name: "bundled base", ok: found !== null, needed: true, detail, hint };
}
