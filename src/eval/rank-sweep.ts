// How good an adapter is at each rank: token-weighted cross-entropy of held-out batches.

import { type AdapterConfig, scaleAt } from "../adapter/config.ts";
import type { Batch } from "../data/batch.ts";
import { breathe } from "../model/breathe.ts";
import { type LossProgram, uniformRange } from "../model/loss-program.ts";

export interface SampleLoss {
  readonly sampleId: number;
  /** Summed over the sample's supervised tokens, nats. */
  readonly loss: number;
  /** Supervised tokens. */
  readonly tokens: number;
}

export interface RankEvaluation {
  readonly rank: number;
  /** Mean over all supervised tokens, nats. */
  readonly loss: number;
  readonly samples: readonly SampleLoss[];
}

/** Scores every batch at every rank; rank 0 is the base alone. `onRank` hears of each finished rank. */
export async function evaluateRanks(
  scorer: LossProgram,
  batches: readonly Batch[],
  config: AdapterConfig,
  ranks: readonly number[],
  onRank: (evaluation: RankEvaluation) => void = () => {},
): Promise<RankEvaluation[]> {
  const evaluations: RankEvaluation[] = [];
  for (const rank of ranks) {
    const samples: SampleLoss[] = [];
    for (const batch of batches) {
      const losses = await scorer.run(batch, uniformRange(batch, rank, scaleAt(config, rank)), 0);
      samples.push(...bySample(batch, losses));
      await breathe();
    }
    const evaluation = { rank, loss: meanLoss(samples), samples };
    evaluations.push(evaluation);
    onRank(evaluation);
  }
  return evaluations;
}

/** Mean cross-entropy per supervised token. */
export function meanLoss(samples: readonly SampleLoss[]): number {
  const tokens = samples.reduce((sum, sample) => sum + sample.tokens, 0);
  return samples.reduce((sum, sample) => sum + sample.loss, 0) / tokens;
}

function bySample(batch: Batch, losses: Float32Array): SampleLoss[] {
  return batch.sampleIds.map((sampleId, segment) => {
    let loss = 0;
    let tokens = 0;
    for (let row = batch.starts[segment]!; row < batch.starts[segment + 1]!; row++) {
      if (batch.targets[row]! < 0) continue;
      loss += losses[row]!;
      tokens++;
    }
    return { sampleId, loss, tokens };
  });
}
