// The LoRA that a run starts from, checked against the run's settings.

import type { AdapterConfig } from "../adapter/config.ts";
import { adaptedLinears, largestRank } from "../adapter/nested-lora.ts";
import { startsAlikeAtEveryRank } from "../adapter/start-from-lora.ts";
import { openFolder } from "../formats/node-files.ts";
import { sha256InBackground } from "../formats/node-sha256.ts";
import { type OpenPeftAdapter, openPeft, PEFT_CONFIG, PEFT_WEIGHTS } from "../formats/peft.ts";
import type { ModelConfig } from "../model/config.ts";
import { type Problem, throwProblems } from "./problems.ts";

export interface InitialAdapter extends AsyncDisposable {
  readonly peft: OpenPeftAdapter;
  /** SHA-256 of its files. */
  readonly sha256: string;
}

/** Throws CONFIG_INVALID (the run has no room for it), ADAPTER_INVALID, FILE_NOT_FOUND, SAFETENSORS_INVALID. */
export async function openInitialAdapter(
  path: string,
  model: ModelConfig,
  config: AdapterConfig,
): Promise<InitialAdapter> {
  const folder = await openFolder(path);
  const peft = await openPeft(folder);
  try {
    throwProblems("train", problemsOf(peft, model, config));
    const sha256 = await sha256InBackground(folder, [PEFT_CONFIG, PEFT_WEIGHTS], new AbortController().signal);
    return { peft, sha256, [Symbol.asyncDispose]: () => peft.close() };
  } catch (error) {
    await peft.close();
    throw error;
  }
}

function problemsOf(peft: OpenPeftAdapter, model: ModelConfig, config: AdapterConfig): Problem[] {
  const problems: Problem[] = [];
  const rank = largestRank(peft);
  const missing = adaptedLinears(peft, model).filter((linear) => !config.targets.includes(linear));
  if (rank > config.rankMax)
    problems.push({
      key: "rankMax",
      got: config.rankMax,
      expected: `at least ${rank}`,
      because: "the adapter to start from has that rank (`qdylora compress --rank-max` can cut it first)",
    });
  if (missing.length > 0)
    problems.push({
      key: "targets",
      got: config.targets,
      expected: `${missing.join(", ")} among them`,
      because: "the adapter to start from has them",
    });
  if (!startsAlikeAtEveryRank({ config }))
    problems.push({
      key: "scale",
      got: config.scaleRule,
      expected: "alpha/R or one (or mode fixed)",
      because: "with a scale that depends on the rank the start would be right at one rank only",
    });
  return problems;
}
