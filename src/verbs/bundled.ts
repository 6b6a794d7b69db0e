// The small base model and the data that come with the package, so that everything can be tried offline.

import { fileURLToPath } from "node:url";

const asset = (path: string): string => fileURLToPath(new URL(`../../assets/${path}`, import.meta.url));

/** What adapters call the bundled base. */
export const BUNDLED_BASE_NAME = "qdylora-base";

/** A Llama-architecture model of a few million parameters. */
export const bundledBase = (): string => asset("base");

/** Spelled words and their phonemes. No word of the held-out file shares its beginning with one to train on. */
export const bundledData = (): { readonly train: string; readonly heldOut: string } => ({
  train: asset("data/train.jsonl"),
  heldOut: asset("data/heldout.jsonl"),
});
