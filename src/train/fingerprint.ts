// What must be the same for a resumed run to give the same bits.

import { momentKind } from "../adapter/moments.ts";
import { QdlError } from "../errors.ts";
import type { BaseIdentity } from "../model/frozen-model.ts";
import type { TrainConfig } from "./config.ts";

/** Flat: dotted key → value. */
export type Fingerprint = Readonly<Record<string, string | number | boolean | null>>;

/** Settings that change how a run is watched or stored, but no bit of its result. */
const HARMLESS = ["evalEvery", "checkpointEvery", "keepCheckpoints", "memoryBytes", "offloadActivations"];

export interface RunFacts {
  readonly config: TrainConfig;
  readonly base: BaseIdentity;
  readonly dataSha256: string;
  readonly instructionSet: string;
  readonly computeDtype: string;
}

export function fingerprintOf({ config, base, dataSha256, instructionSet, computeDtype }: RunFacts): Fingerprint {
  const settings = Object.fromEntries(Object.entries(config).filter(([key]) => !HARMLESS.includes(key)));
  // Where moments lie changes no bit; how they are coded does.
  const optimizer = { ...config.optimizer, state: momentKind(config.optimizer.state) };
  const { sha256, format, blockSize, doubleQuant } = base;
  return flatten({
    config: { ...settings, optimizer },
    base: { sha256, format, blockSize, doubleQuant },
    dataSha256,
    instructionSet,
    computeDtype,
  });
}

/** Throws RESUME_MISMATCH naming every key that differs. */
export function refuseOther(stored: Fingerprint, now: Fingerprint, path: string): void {
  const keys = [...new Set([...Object.keys(stored), ...Object.keys(now)])]
    .filter((key) => stored[key] !== now[key])
    .sort();
  if (keys.length === 0) return;
  const list = keys.map((key) => `${key} was ${show(stored[key])}, is ${show(now[key])}`).join("; ");
  throw new QdlError("RESUME_MISMATCH", `the run in ${path} cannot be resumed with other settings: ${list}`, {
    hint: "Resume with the settings it was started with, or pass --allow-changed to go on with the new ones.",
    details: { path, keys, stored: pick(stored, keys), now: pick(now, keys) },
  });
}

const show = (value: unknown): string => (value === undefined ? "not set" : JSON.stringify(value));
const pick = (from: Fingerprint, keys: readonly string[]) =>
  Object.fromEntries(keys.map((key) => [key, from[key] ?? null]));

function flatten(value: unknown, prefix = ""): Record<string, string | number | boolean | null> {
  if (typeof value !== "object" || value === null) return { [prefix]: value as string | number | boolean | null };
  return Object.assign(
    {},
    ...Object.entries(value).map(([key, entry]) => flatten(entry, prefix ? `${prefix}.${key}` : key)),
  ) as Record<string, string | number | boolean | null>;
}
