// The families. A new one is a file beside this one, a line here, and its name in FAMILY_NAMES (model/config.ts).

import type { FamilyName, LinearName } from "../config.ts";
import { falcon } from "./falcon.ts";
import type { Family } from "./family.ts";
import { gemma2 } from "./gemma2.ts";
import { gemma3 } from "./gemma3.ts";
import { gptNeox } from "./gpt-neox.ts";
import { gpt2 } from "./gpt2.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { phi3 } from "./phi3.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";

export const FAMILIES: Readonly<Record<FamilyName, Family>> = {
  llama,
  falcon,
  mistral,
  qwen2,
  qwen3,
  gemma2,
  gemma3,
  phi3,
  "gpt-neox": gptNeox,
  gpt2,
};

/** Every name that a linear has in some family. */
export const KNOWN_LINEARS: readonly LinearName[] = [
  ...new Set(Object.values(FAMILIES).flatMap(({ tensors }) => Object.keys(tensors.linears))),
];

/** Module path of a linear in its model: "model.layers.3.self_attn.q_proj". */
export function linearPath(family: FamilyName, layer: number, name: LinearName): string {
  const { layers, linears } = FAMILIES[family].tensors;
  return `${layers}.${layer}.${linears[name]}`;
}

/** The linear at a module path; null if none is there. */
export function linearAt(
  family: FamilyName,
  path: string,
): { readonly layer: number; readonly linear: LinearName } | null {
  const { layers, linears } = FAMILIES[family].tensors;
  const match = path.startsWith(`${layers}.`) ? /^(\d+)\.(.+)$/.exec(path.slice(layers.length + 1)) : null;
  const found = Object.entries(linears).find(([, module]) => module === match?.[2]);
  return match && found ? { layer: Number(match[1]), linear: found[0] } : null;
}
