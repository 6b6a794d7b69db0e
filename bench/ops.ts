// Speed of the CPU backend's ops at the sizes that training, evaluation and decoding use: GFLOP/s and the share of what a
// register loop reaches on the same threads, or GB/s where memory is the bound.
//   node bench/run.mjs bench/ops.ts [--json] [--isa avx2] [--threads 2] [--only linears] [--seconds 0.5]
// Each figure is the best of several rounds: others on the machine can only make it slower.

import { parseArgs } from "node:util";
import { openCpu } from "../src/backends/cpu/cpu.ts";
import { ACTIVATIONS } from "../src/ops/activation.ts";
import { type ArgsOf, OPS, type OpName } from "../src/ops/index.ts";
import type { OpArgs } from "../src/ops/op.ts";
import { Maker } from "./maker.ts";

interface Case {
  readonly name: string;
  readonly dtype: "f32" | "bf16";
  readonly bound: "flops" | "bytes";
  readonly seconds: number;
  readonly gflops: number;
  /** Of the measured peak of this dtype's products. */
  readonly share: number;
  readonly gigabytes: number;
}

const { values: options } = parseArgs({
  args: process.argv.slice(process.argv[1]?.endsWith("run.mjs") ? 3 : 2),
  options: {
    json: { type: "boolean", default: false },
    isa: { type: "string" },
    threads: { type: "string" },
    only: { type: "string", default: "" },
    seconds: { type: "string", default: "0.5" },
  },
});

const backend = await openCpu({
  ...(options.isa && { isa: options.isa }),
  ...(options.threads && { threads: Number(options.threads) }),
});
const peaks = { f32: backend.measurePeak("f32"), bf16: backend.measurePeak("bf16") };
const results: Case[] = [];
if (!options.json) {
  console.log(backend.description);
  console.log(`register-loop peak: f32 ${giga(peaks.f32)}, bf16 ${giga(peaks.bf16)} GFLOP/s`);
}
try {
  linears();
  losses();
  attentions();
  memory();
} finally {
  await backend[Symbol.asyncDispose]();
}
if (options.json)
  console.log(JSON.stringify({ device: backend.description, date: new Date().toISOString(), peaks, results }, null, 2));

function linears(): void {
  for (const dtype of ["bf16", "f32"] as const) {
    for (const [rows, from, to] of [
      [512, 2048, [2048]],
      [512, 576, [576]],
      [1500, 256, [256]],
      [1500, 256, [256, 256, 256]],
      [1500, 256, [704, 704]],
      [1500, 704, [256]],
    ] as const) {
      const shape = `${rows} rows, ${from}→${to.join("+")}`;
      for (const rank of [0, 8, 64]) {
        time(`adaptedLinears nf4 ${shape}, rank ${rank}`, dtype, "flops", "adaptedLinears", (m) =>
          m.forward(rows, from, to, rank),
        );
        time(`backward nf4 ${shape}, rank ${rank}`, dtype, "flops", "adaptedLinearsBackward", (m) =>
          m.backward(rows, from, to, rank),
        );
      }
    }
    for (const rows of [1, 4, 6, 16])
      time(`adaptedLinears nf4 decode ${rows} rows, 2048→2048, rank 8`, dtype, "flops", "adaptedLinears", (m) =>
        m.forward(rows, 2048, [2048], 8),
      );
    time("matmul logits 1 row, 256→4096", dtype, "flops", "matmul", (m) => ({
      x: m.floats(1, 256),
      weight: m.floats(4096, 256),
      y: m.empty("f32", 1, 4096),
    }));
  }
}

function losses(): void {
  for (const dtype of ["bf16", "f32"] as const)
    for (const gradient of [true, false])
      time(
        `linearCrossEntropy 1500 rows, 256→4096${gradient ? "" : ", no dx"}`,
        dtype,
        "flops",
        "linearCrossEntropy",
        (m) => ({
          x: m.floats(1500, 256),
          weight: m.floats(4096, 256),
          targets: m.integers(1500, (i) => (i * 7919) % 4096),
          tokenWeights: m.floats(1500, 1, "f32"),
          loss: m.empty("f32", 1500, 1),
          dx: gradient ? m.empty(m.dtype, 1500, 256) : null,
          softCap: null,
        }),
      );
}

function attentions(): void {
  for (const dtype of ["bf16", "f32"] as const)
    for (const [segments, length, heads, groups, dim, window, softCap] of [
      [12, 125, 8, 4, 32, null, null],
      [1, 1500, 8, 4, 32, null, null],
      [1, 2048, 8, 8, 64, null, null],
      [1, 2048, 8, 8, 64, 256, null],
      [1, 2048, 8, 8, 64, null, 50],
    ] as const) {
      const rows = segments * length;
      const extras = `${window ? `, window ${window}` : ""}${softCap ? `, soft cap ${softCap}` : ""}`;
      const name = `${segments}×${length} rows, ${heads}/${groups} heads of ${dim}${extras}`;
      const shared = (m: Maker) => ({
        q: m.floats(rows, heads * dim),
        k: m.floats(rows, groups * dim),
        v: m.floats(rows, groups * dim),
        starts: m.integers(segments + 1, (i) => i * length),
        o: m.floats(rows, heads * dim),
        lse: m.floats(rows, heads, "f32"),
        headDim: dim,
        scale: dim ** -0.5,
        window,
        softCap,
      });
      // Useful work: the visible pairs, two products forward and five backward.
      const width = window ?? length;
      const flops = 2 * dim * heads * segments * (width * length - (width * (width - 1)) / 2);
      time(`attention ${name}`, dtype, "flops", "attention", shared, 2 * flops);
      time(
        `attentionBackward ${name}`,
        dtype,
        "flops",
        "attentionBackward",
        (m) => ({
          ...shared(m),
          dO: m.floats(rows, heads * dim),
          dq: m.empty(m.dtype, rows, heads * dim),
          dk: m.empty(m.dtype, rows, groups * dim),
          dv: m.empty(m.dtype, rows, groups * dim),
        }),
        5 * flops,
      );
    }
}

function memory(): void {
  const [rows, hidden, wide] = [1500, 256, 704];
  for (const dtype of ["bf16", "f32"] as const) {
    time("add 1500×256", dtype, "bytes", "add", (m) => ({
      a: m.floats(rows, hidden),
      b: m.floats(rows, hidden),
      y: m.empty(m.dtype, rows, hidden),
    }));
    time("rmsNorm 1500×256", dtype, "bytes", "rmsNorm", (m) => ({
      x: m.floats(rows, hidden),
      weight: m.floats(1, hidden),
      y: m.empty(m.dtype, rows, hidden),
      rstd: m.empty("f32", rows, 1),
      eps: 1e-5,
    }));
    time("rmsNormBackward 1500×256", dtype, "bytes", "rmsNormBackward", (m) => ({
      x: m.floats(rows, hidden),
      weight: m.floats(1, hidden),
      rstd: m.floats(rows, 1, "f32"),
      dy: m.floats(rows, hidden),
      dx: m.floats(rows, hidden),
    }));
    time("rope 1500×8×32", dtype, "bytes", "rope", (m) => ({
      x: m.floats(rows, hidden),
      cosSin: m.floats(rows, 32, "f32"),
      y: m.empty(m.dtype, rows, hidden),
      headDim: 32,
      direction: "forward" as const,
    }));
    for (const activation of ACTIVATIONS) {
      const gated = (m: Maker) => ({ gate: m.floats(rows, wide), up: m.floats(rows, wide), activation });
      time(`glu ${activation} 1500×704`, dtype, "bytes", "glu", (m) => ({
        ...gated(m),
        y: m.empty(m.dtype, rows, wide),
      }));
      time(`gluBackward ${activation} 1500×704`, dtype, "bytes", "gluBackward", (m) => ({
        ...gated(m),
        dy: m.floats(rows, wide),
        dGate: m.empty(m.dtype, rows, wide),
        dUp: m.empty(m.dtype, rows, wide),
      }));
    }
    time("dequantize nf4 4096×4096", dtype, "bytes", "dequantize", (m) => ({
      weight: m.nf4(4096, 4096),
      y: m.empty(m.dtype, 4096, 4096),
    }));
  }
  time("quantize4bit nf4 4096×4096", "bf16", "bytes", "quantize4bit", (m) => ({
    w: m.floats(4096, 4096),
    codes: m.empty("u8", 1, 2 ** 23),
    absmax: m.empty("f32", 1, 2 ** 18),
    format: "nf4" as const,
  }));
  time("adamW 64×65536", "f32", "bytes", "adamW", (m) => ({
    ...adamWCommon(m),
    ms: [m.empty("f32", 64, 65536)],
    vs: [m.empty("f32", 64, 65536)],
  }));
  time("adamW8bit 64×65536", "f32", "bytes", "adamW8bit", (m) => ({
    ...adamWCommon(m),
    mCodes: [m.empty("u8", 64, 65536)],
    mAbsmax: [m.empty("f32", 64, 256)],
    vCodes: [m.empty("u8", 64, 65536)],
    vAbsmax: [m.empty("f32", 64, 256)],
    mMap: m.floats(1, 256),
    vMap: m.floats(1, 256),
  }));
}

/** What both forms of AdamW are given, all rows at rank 64. */
const adamWCommon = (m: Maker) => ({
  params: [m.floats(64, 65536)],
  gradients: [m.floats(64, 65536)],
  copies: [m.empty("bf16", 64, 65536)],
  steps: m.integers(64, () => 3),
  squares: m.floats(1, 1),
  from: 0,
  to: 64,
  learningRates: [1e-3],
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  maxNorm: 0,
});

/** `flops`: useful operations where the op's own count includes work that causality makes needless. */
function time<K extends OpName>(
  name: string,
  dtype: "f32" | "bf16",
  bound: "flops" | "bytes",
  op: K,
  make: (maker: Maker) => ArgsOf<K>,
  flops?: number,
): void {
  if (!name.includes(options.only)) return;
  const maker = new Maker(backend, dtype);
  const args = make(maker);
  const bytes = backend.scratchBytes(op, args);
  const scratch = bytes > 0 ? maker.empty("u8", 1, bytes) : null;
  const cost = (OPS[op].cost as (args: OpArgs) => { flops: number; bytes: number })(args);
  const seconds = best(() => backend.run(op, args, scratch));
  maker.free();
  const work = flops ?? cost.flops;
  const result: Case = {
    name,
    dtype,
    bound,
    seconds,
    gflops: work / seconds / 1e9,
    share: work / seconds / peaks[dtype],
    gigabytes: cost.bytes / seconds / 1e9,
  };
  results.push(result);
  if (options.json) return;
  const speed =
    bound === "flops"
      ? `${result.gflops.toFixed(1).padStart(7)} GFLOP/s ${(100 * result.share).toFixed(0).padStart(4)} %`
      : `${result.gigabytes.toFixed(1).padStart(7)} GB/s         `;
  console.log(`${speed} ${(1e6 * seconds).toFixed(0).padStart(7)} µs  ${dtype.padEnd(4)} ${name}`);
}

/** The shortest of all calls within the time given, at least three. */
function best(call: () => void): number {
  call();
  let shortest = Number.POSITIVE_INFINITY;
  const end = performance.now() + 1000 * Number(options.seconds);
  for (let i = 0; i < 3 || performance.now() < end; i++) {
    const from = performance.now();
    call();
    shortest = Math.min(shortest, performance.now() - from);
  }
  return shortest / 1000;
}

function giga(value: number): string {
  return (value / 1e9).toFixed(0);
}
