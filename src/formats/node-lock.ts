// One process per run folder: a lock file that names a live process. The lock of a process that died (kill −9, power) is
// taken over; a reused process id is told apart by the process's start time where the system shows it.

import { randomUUID } from "node:crypto";
import { link, readFile, rename, unlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { QdlError } from "../errors.ts";

export const LOCK_FILE = "run.lock";

export interface RunLock extends AsyncDisposable {
  readonly file: string;
}

interface Holder {
  readonly pid: number;
  /** Start time of the process in clock ticks since boot, or null where unknown. */
  readonly startTime: string | null;
}

/** Locks `folder` for this process until disposed. Throws RUN_LOCKED naming the live process that holds it. */
export async function lockFolder(folder: string): Promise<RunLock> {
  const file = path.join(folder, LOCK_FILE);
  const mine = path.join(folder, `${LOCK_FILE}.${randomUUID()}`);
  await writeFile(
    mine,
    JSON.stringify({ pid: process.pid, startTime: await startTimeOf(process.pid) } satisfies Holder),
  );
  try {
    for (;;) {
      if (await linked(mine, file)) break;
      await removeIfDead(file);
    }
  } finally {
    await unlink(mine);
  }
  let held = true;
  return {
    file,
    [Symbol.asyncDispose]: async () => {
      if (held) await unlink(file).catch(() => {});
      held = false;
    },
  };
}

/** Gives the file its second, public name; false if that name is taken. */
async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** Moves a dead process's lock out of the way. Throws RUN_LOCKED if the holder lives. */
async function removeIfDead(file: string): Promise<void> {
  const seen = await readFile(file, "utf8").catch(() => null);
  if (seen === null) return;
  refuseIfAlive(file, seen, await isAlive(seen));
  // Renaming takes exactly one lock away, even when several processes find the same dead one.
  const aside = `${file}.${randomUUID()}`;
  await rename(file, aside).catch(() => {});
  const taken = await readFile(aside, "utf8").catch(() => null);
  if (taken === null) return;
  if (taken !== seen) await linked(aside, file);
  await unlink(aside);
}

function refuseIfAlive(file: string, content: string, alive: boolean): void {
  if (!alive) return;
  const { pid } = JSON.parse(content) as Holder;
  throw new QdlError(
    "RUN_LOCKED",
    `${path.dirname(file)} is in use by process ${pid}, expected a folder that no live run uses`,
    {
      hint: `Wait for process ${pid} to end, stop it, or choose another --output.`,
      details: { path: path.dirname(file), pid },
    },
  );
}

async function isAlive(content: string): Promise<boolean> {
  let holder: Holder;
  try {
    holder = JSON.parse(content) as Holder;
    process.kill(holder.pid, 0);
  } catch (error) {
    // EPERM: the process lives and belongs to somebody else. A lock that is no JSON was never finished by us.
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
    holder = JSON.parse(content) as Holder;
  }
  const now = await startTimeOf(holder.pid);
  return holder.startTime === null || now === null || holder.startTime === now;
}

/** Field 22 of /proc/PID/stat (Linux); null elsewhere. The command's name, in parentheses, may hold spaces. */
async function startTimeOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => null);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
}
