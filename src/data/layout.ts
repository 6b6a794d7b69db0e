import type { Batch, Sample } from "./batch.ts";

/** Tokens of a sample that the loss looks at. */
export function targetsOf(sample: Sample): number {
  let sum = 0;
  for (let i = 1; i < sample.tokens.length; i++) sum += sample.supervised[i]!;
  return sum;
}

/** Samples end to end as one micro-batch, each a segment of its own: no padding, and no target across a border. */
export function layOut(samples: readonly Sample[]): Batch {
  const rows = samples.reduce((sum, sample) => sum + sample.tokens.length, 0);
  const tokens = new Int32Array(rows);
  const targets = new Int32Array(rows).fill(-1);
  const positions = new Int32Array(rows);
  const starts = new Int32Array(samples.length + 1);
  let at = 0;
  let supervised = 0;
  for (const [s, sample] of samples.entries()) {
    starts[s] = at;
    tokens.set(sample.tokens, at);
    for (let i = 0; i < sample.tokens.length; i++) {
      positions[at + i] = i;
      if (i === 0 || sample.supervised[i] !== 1) continue;
      targets[at + i - 1] = sample.tokens[i]!;
      supervised++;
    }
    at += sample.tokens.length;
  }
  starts[samples.length] = at;
  return { tokens, targets, positions, starts, sampleIds: samples.map((sample) => sample.id), supervised };
}
