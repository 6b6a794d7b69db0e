import { QdlError } from "../../errors.ts";
import type { ShapeName } from "../../model/named-shapes.ts";
import { percent } from "../../report/report.ts";
import { benchGenerate } from "../../verbs/bench-generate.ts";
import { benchOps } from "../../verbs/bench-ops.ts";
import type { BenchSettings } from "../../verbs/bench-settings.ts";
import { benchTrain } from "../../verbs/bench-train.ts";
import { defineCommand } from "../command.ts";
import { showBytes, table } from "../style.ts";
import { BACKEND_OPTIONS } from "./shared.ts";

const KINDS = ["ops", "train", "generate"] as const;

export const benchCommand = defineCommand({
  name: "bench",
  summary: "measure this machine: products, training steps, decoding",
  details: `Random weights of a true model shape; medians over --seconds after a warm-up. The share is of what a loop in registers
(ops, train) or a copy of memory (generate) reaches in the same run. Every token of a training step is supervised; clipping
and optimizer are included; what is recomputed never counts as work. By default 4×256 tokens at rank 64 of 64; for ops 512
tokens at rank 0.`,
  argument: { name: "what", required: true, help: `${KINDS.join(", ")}` },
  options: [
    "shape",
    "rankMax",
    "rank",
    "batch",
    "seq",
    "baseFormat",
    "compute",
    "drawRanks",
    "optimizerState",
    "offloadActivations",
    "memory",
    ...BACKEND_OPTIONS,
    "seconds",
  ],
  defaults: { rankMax: null, batch: null, seq: null },
  examples: [
    {
      line: "bench train --shape smollm2-135m --rank-max 64 --batch 4 --seq 256",
      says: "a training step of SmolLM2-135M",
    },
    { line: "bench ops --isa avx2", says: "NF4 products without AVX-512" },
    { line: "bench generate --shape tinyllama-1.1b --rank 8", says: "decoding at rank 8" },
  ],
  async run(values, context) {
    const { shape, ...rest } = values;
    const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null && value !== undefined));
    const settings: BenchSettings = { ...given, ...(shape === undefined ? {} : { shape: shape as ShapeName }) };
    switch (context.argument) {
      case "ops": {
        const results = await benchOps(settings);
        const rows = results.map((r) => [
          r.op,
          r.shape,
          String(r.tokens),
          String(r.rank),
          r.gflops.toFixed(0),
          percent(r.share),
        ]);
        context.say(table(["op", "shape", "tokens", "rank", "GFLOP/s", "of peak"], rows, context.style));
        return results;
      }
      case "train": {
        const r = await benchTrain(settings);
        context.say(
          `${r.shape}, ${r.batch}×${r.seq} tokens, ${r.rank === null ? `ranks drawn from 1 to ${r.rankMax}` : `rank ${r.rank}`}: ${r.tokensPerSecond.toFixed(0)} tokens/s, ${r.stepMs.toFixed(0)} ms a step, ${(1000 * r.usefulTflops).toFixed(0)} useful GFLOP/s = ${percent(r.share)} of the measured peak; at most ${showBytes(r.peakBytes)}`,
        );
        return r;
      }
      case "generate": {
        const r = await benchGenerate(settings);
        context.say(
          `${r.shape}, rank ${r.rank}: ${r.tokensPerSecond.toFixed(1)} tokens/s, ${r.gbPerSecond.toFixed(1)} GB/s = ${percent(r.share)} of a copy; prefill ${r.prefillTokensPerSecond.toFixed(0)} tokens/s`,
        );
        return r;
      }
      default:
        throw new QdlError("USAGE", `bench: what is "${context.argument}", expected one of ${KINDS.join(", ")}`, {
          hint: "For example: qdylora bench train --shape smollm2-135m",
        });
    }
  },
});
