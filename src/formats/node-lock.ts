// One process per run folder: a lock file that names a live process. The lock of a process that died (kill −9, power) is
// taken over; a reused process id is told apart by the process's start time where the system shows it.

import { randomUUID } from "node:crypto";
import { link, readFile, unlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
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
  await acquire(file, takeOver);
  let held = true;
  return {
    file,
    [Symbol.asyncDispose]: async () => {
      if (held) await unlink(file).catch(() => {});
      held = false;
    },
  };
}

/** Makes `file` ours. While it exists, `clear` either throws, waits, or removes it. */
async function acquire(file: string, clear: (file: string) => Promise<void>): Promise<void> {
  const mine = `${file}.${randomUUID()}`;
  await writeFile(
    mine,
    JSON.stringify({ pid: process.pid, startTime: await startTimeOf(process.pid) } satisfies Holder),
  );
  try {
    while (!(await linked(mine, file))) await clear(file);
  } finally {
    await unlink(mine);
  }
}

/** Removes a dead process's lock. Throws RUN_LOCKED if the holder lives. */
async function takeOver(file: string): Promise<void> {
  refuseIfAlive(file, await holderOf(file));
  // Only one process at a time may remove a lock, or the second would remove the first one's new lock.
  const guard = `${file}.takeover`;
  await acquire(guard, waitForGuard);
  try {
    refuseIfAlive(file, await holderOf(file));
    await unlink(file).catch(() => {});
  } finally {
    await unlink(guard);
  }
}

/** A guard is held for a moment; one whose holder died in that moment is removed. */
async function waitForGuard(guard: string): Promise<void> {
  if (await holderOf(guard)) return sleep(5);
  await unlink(guard).catch(() => {});
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

function refuseIfAlive(file: string, holder: Holder | null): void {
  if (!holder) return;
  const folder = path.dirname(file);
  throw new QdlError(
    "RUN_LOCKED",
    `${folder} is in use by process ${holder.pid}, expected a folder that no live run uses`,
    {
      hint: `Wait for process ${holder.pid} to end, stop it, or choose another --output.`,
      details: { path: folder, pid: holder.pid },
    },
  );
}

/** The live process that a lock names; null if it died, if the lock is gone, or if it was never finished. */
async function holderOf(file: string): Promise<Holder | null> {
  let holder: Holder;
  try {
    holder = JSON.parse(await readFile(file, "utf8")) as Holder;
  } catch {
    return null;
  }
  if (!exists(holder.pid)) return null;
  const now = await startTimeOf(holder.pid);
  return holder.startTime === null || now === null || holder.startTime === now ? holder : null;
}

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives and belongs to somebody else.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Field 22 of /proc/PID/stat (Linux); null elsewhere. The command's name, in parentheses, may hold spaces. */
async function startTimeOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => null);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
}
