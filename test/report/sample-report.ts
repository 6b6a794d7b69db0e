// A report of plausible shape for tests of the page. Its numbers are made up by a formula and shown nowhere else.

import type { Estimate } from "../../src/eval/task-metrics.ts";
import { randomStream } from "../../src/random/philox.ts";
import type { Report, ReportRank } from "../../src/report/report.ts";

const around = (value: number, half: number): Estimate => ({ value, low: value - half, high: value + half });

function rankRow(rank: number): ReportRank {
  const gain = rank === 0 ? 0 : 0.8 + 0.12 * Math.log2(rank);
  return {
    rank,
    loss: around(2.4 - 1.1 * gain, 0.04),
    metric: around(rank === 0 ? 0.93 : 0.62 - 0.055 * Math.log2(rank), 0.025),
    adapterBytes: rank * 98_304,
    trained: rank !== 3,
  };
}

export function sampleReport(steps = 560): Report {
  const random = randomStream(7, "sample-report");
  const ranks = [1, 2, 4, 8, 16, 32];
  return {
    format: "qdylora-report/1",
    title: "Spelled words to phonemes",
    summary:
      "One QDyLoRA run over a 4-bit base of 7.6 million parameters: 560 steps on 11,800 words, then the same adapter measured at every rank on 774 words it has not seen.",
    metricName: "error-rate",
    heldOut: { samples: 774, tokens: 4321 },
    ranks: [0, 1, 2, 3, 4, 8, 16, 32].map(rankRow),
    steps: Array.from({ length: steps }, (_, i) => {
      const rank = ranks[random.below(ranks.length, i)]!;
      const loss = 1.2 + 2.4 * Math.exp(-i / 90) - 0.06 * Math.log2(rank) + 0.09 * random.normal(i, 1);
      return { step: i + 1, rank, loss };
    }),
    evaluations: [],
    samples: [
      {
        prompt: "Say p n e u m a t i c\nPhonemes:",
        reference: " N UW M AE T IH K",
        answers: [
          { rank: 0, text: " The word is used" },
          { rank: 1, text: " P N UW M AE T IH K" },
          { rank: 32, text: " N UW M AE T IH K" },
        ],
      },
      {
        prompt: "Say <b>g r o i n</b> & more\nPhonemes:",
        reference: " G R OY N",
        answers: [
          { rank: 0, text: " a kind of" },
          { rank: 1, text: " G R OY N" },
          { rank: 32, text: " G R OY N" },
        ],
      },
    ],
    settings: {
      "largest rank": "32",
      "learning rate": "0.003, linear",
      "ranks drawn": "1, 2, 4, 8, 16, 32",
      "scale rule": "alpha/sqrt(b)",
      batch: "64 samples",
    },
    provenance: {
      base: "qdylora-base (NF4, double quantisation)",
      data: "a3f1…",
      seed: "1",
      device: "CPU, 2 threads, avx512bf16",
      qdylora: "0.1.0",
    },
  };
}
