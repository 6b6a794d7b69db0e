// `npm run verify:llama-cpp`: a real pretrained model, SmolLM2-135M-Instruct, goes from its Q4_1 GGUF through qdylora and back
// out, and the real llama.cpp (node-llama-cpp), transformers and peft say the same as we do:
//   - greedy answers of our F32 export, and of our dequantised NF4 base with our LoRA slices at ranks 4 and 64;
//   - the loss on the original file;
//   - logits of the PEFT slices at those ranks.
// The rule for greedy text: token by token equal; a first difference is allowed only where llama.cpp's own two best logits are
// less than 0.02 apart. QDYLORA_RUN names the folder of a finished run over the model's NF4 base; else a short one is trained.
// QDYLORA_HELD_OUT: JSONL on which that run is scored. QDYLORA_PRINT=1 prints what docs/smollm2.md tells.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { readAdapter } from "../../src/adapter/file.ts";
import { Adapter } from "../../src/adapter/parameters.ts";
import { promptTokens } from "../../src/data/examples.ts";
import { openFolder } from "../../src/formats/node-files.ts";
import { bytesOf, encodeSafetensors } from "../../src/formats/safetensors.ts";
import { Engine } from "../../src/serve/engine.ts";
import { bundledData } from "../../src/verbs/bundled.ts";
import { convert } from "../../src/verbs/convert.ts";
import { exportAdapter } from "../../src/verbs/export-adapter.ts";
import { openBase, openModelFiles } from "../../src/verbs/open-model.ts";
import { readData } from "../../src/verbs/read-data.ts";
import { scoreRanks } from "../../src/verbs/score.ts";
import { train } from "../../src/verbs/train.ts";
import { NODE_LLAMA_CPP, node, nodeLlamaCpp, python, smolLm2 } from "./foreign-tools.ts";

const ORACLE = fileURLToPath(new URL("../../tools/llama-cpp-oracle.mjs", import.meta.url));
const PEFT_ORACLE = fileURLToPath(new URL("../../tools/verify-gguf-peft.py", import.meta.url));
const DOCS = ["ARCHITECTURE.md", "docs/data.md"].map((name) =>
  fileURLToPath(new URL(`../../${name}`, import.meta.url)),
);

const RANKS = [4, 64] as const;
/** An hour: each test runs two programs over a model, on whatever cores there are. */
vi.setConfig({ testTimeout: 3_600_000 });

const NEW_TOKENS = 32;
/** Logits nearer than this may swap for rounding alone. */
const NEAR = 0.02;
const PROMPTS = [
  "What is the capital of France?",
  "Write a haiku about the sea.",
  "Explain why the sky is blue.",
  "List three uses of a paper clip.",
  "Who wrote Hamlet?",
  "Translate 'good morning' into Spanish.",
  "A box holds 12 eggs. How many eggs are in 7 boxes?",
  "Give me a recipe for pancakes.",
  "Tom has 15 apples and gives 6 to Ann. How many are left?",
  "How do plants make food?",
];
/** Texts that tokenizers disagree on. */
const NASTY = [
  "Hello  world",
  "  leading and trailing  ",
  "tabs\tand\n\nlines\r\n",
  "naïve café — “quoted” … ﬁ",
  "日本語の文章、漢字とかな。",
  "한국어 русский עברית ไทย",
  "👩‍👩‍👧 👍🏽 🇫🇷",
  "it's we'll I'D 1234567 3.14 0x1F",
  "<|im_start|>user\nhi<|im_end|>",
  "a<|endoftext|>b",
  "for (let i=0;i<10;i++){x+=i}",
];

/** One token of llama.cpp, its runner-up, and how far that one's logit is below. */
interface Step {
  readonly token: number;
  readonly second: number;
  readonly gap: number;
}
interface Answer {
  readonly greedy: readonly (readonly Step[])[];
  readonly score: readonly (readonly number[])[];
  readonly tokenize: readonly (readonly number[])[];
}
interface Job {
  readonly model: string;
  readonly lora?: string;
  readonly greedy?: { readonly prompts: readonly (readonly number[])[]; readonly tokens: number };
  readonly score?: readonly (readonly number[])[];
  readonly tokenize?: readonly string[];
}

let folder: string;
let llamaCpp: string;
let model: string;
let run: string;
let prompts: number[][];
const at = (name: string): string => join(folder, name);
const printed: string[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "qdylora-verify-"));
  [llamaCpp, model] = await Promise.all([nodeLlamaCpp(), smolLm2()]);
  await using files = await openModelFiles(model);
  prompts = PROMPTS.map((content) => [...promptTokens(files.tokenizer, [{ role: "user", content }])]);
  run = process.env.QDYLORA_RUN || (await shortRun());
  await convert({ model, dtype: "f32", output: at("f32.gguf") });
  await convert({ model, baseFormat: "nf4", dtype: "f16", output: at("base-nf4-dequantised.gguf") });
  await exportAdapter({ adapter: run, ranks: RANKS, format: "gguf", model, output: at("gguf") });
  await exportAdapter({ adapter: run, ranks: RANKS, format: "peft", output: at("peft") });
}, 3_600_000);

afterAll(async () => {
  if (process.env.QDYLORA_PRINT) console.log(printed.join("\n"));
  await rm(folder, { recursive: true, force: true });
});

/** A run of a few minutes on the bundled data. */
async function shortRun(): Promise<string> {
  const { train: data } = bundledData();
  const settings = {
    rankMax: 64,
    alpha: 64,
    scale: "alpha/R",
    lr: 2e-3,
    batch: 8,
    steps: 24,
    seed: 1,
    heldOut: 0,
  } as const;
  await train({ ...settings, model, data, output: at("run"), backend: "cpu" });
  return at("run");
}

const loraOf = (rank: number): string => at(`gguf/rank-${rank}/adapter.gguf`);

/** Asks llama.cpp, in a process of its own. */
async function ask(job: Job): Promise<Answer> {
  const request = at("request.json");
  await writeFile(request, JSON.stringify({ threads: 1, jobs: [job] }));
  return (JSON.parse(await node([ORACLE, llamaCpp, request])) as { answers: [Answer] }).answers[0];
}

interface Ours {
  /** NEW_TOKENS likeliest tokens after each prompt. */
  readonly greedy: readonly (readonly number[])[];
  /** Logits after the last token of each prompt. */
  readonly logits: readonly Float32Array[];
}

/** The run's adapter at each rank (0: the base alone) over the base in that format, computed in f32. */
async function ours(baseFormat: "f32" | "nf4", ranks: readonly number[]): Promise<Ours[]> {
  await using files = await openModelFiles(model);
  await using base = await openBase(files, { baseFormat, compute: "f32", backend: "cpu" });
  using adapter = await loadAdapter(base);
  const { backend, model: frozen } = base;
  using engine = new Engine({ backend, model: frozen, adapter, sequences: 1, maxLength: 256, maxRows: 128 });
  const results: Ours[] = [];
  for (const rank of ranks) {
    const greedy: number[][] = [];
    const logits: Float32Array[] = [];
    for (const prompt of prompts) {
      engine.reset(0);
      const answer: number[] = [];
      for (let i = 0, tokens = Int32Array.from(prompt); i < NEW_TOKENS; i++) {
        const [found] = await engine.extend([{ sequence: 0, tokens, rank }]);
        if (i === 0) logits.push(found!.slice());
        answer.push(largest(found!));
        tokens = Int32Array.of(answer.at(-1)!);
      }
      greedy.push(answer);
    }
    results.push({ greedy, logits });
  }
  return results;
}

async function loadAdapter({
  backend,
  model: frozen,
}: Pick<Awaited<ReturnType<typeof openBase>>, "backend" | "model">) {
  const { manifest, weights } = await readAdapter(await openFolder(run));
  const adapter = new Adapter(backend, frozen.config, manifest.adapter, frozen.computeDtype, null);
  adapter.load(weights.tensors);
  return adapter;
}

function largest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** Fails at a first difference where llama.cpp was sure; returns how many answers are equal. */
function compareGreedy(what: string, found: Ours, answer: Answer): number {
  let equal = 0;
  for (const [i, ids] of found.greedy.entries()) {
    const steps = answer.greedy[i]!;
    expect(steps).toHaveLength(NEW_TOKENS);
    const place = ids.findIndex((id, k) => id !== steps[k]!.token);
    if (place < 0) {
      equal++;
      continue;
    }
    const { gap } = steps[place]!;
    printed.push(`${what}: "${PROMPTS[i]}" differs from token ${place} on, where llama.cpp's gap is ${gap.toFixed(4)}`);
    expect(gap, `${what}: "${PROMPTS[i]}" differs at token ${place}`).toBeLessThan(NEAR);
  }
  const smallest = Math.min(...answer.greedy.flat().map(({ gap }) => gap));
  printed.push(
    `${what}: ${equal} of ${PROMPTS.length} answers equal; llama.cpp's smallest gap was ${smallest.toFixed(4)}`,
  );
  return equal;
}

test(`our F32 export in llama.cpp (node-llama-cpp ${NODE_LLAMA_CPP}) answers as we do`, async () => {
  const [base] = await ours("f32", [0]);
  const answer = await ask({ model: at("f32.gguf"), greedy: { prompts, tokens: NEW_TOKENS }, tokenize: NASTY });
  expect(compareGreedy("F32", base!, answer)).toBeGreaterThan(PROMPTS.length / 2);
  await using files = await openModelFiles(model);
  const tokens = NASTY.map((text) => [...files.tokenizer.encode(text, { addSpecial: false })]);
  expect(answer.tokenize).toEqual(tokens);
});

describe.each(RANKS)("rank %i", (rank) => {
  test("as GGUF on the dequantised NF4 base, llama.cpp answers as we do", async () => {
    const [at0, found] = await ours("nf4", [0, rank]);
    const job = { model: at("base-nf4-dequantised.gguf"), lora: loraOf(rank) };
    const answer = await ask({ ...job, greedy: { prompts, tokens: NEW_TOKENS } });
    compareGreedy(`rank ${rank}`, found!, answer);
    // The adapter must say something of its own, or nothing was compared.
    expect(found!.greedy).not.toEqual(at0!.greedy);
  });
});

test("the PEFT slices on the same base in transformers give our logits", async () => {
  await convert({ model, baseFormat: "nf4", dtype: "f32", output: at("base-f32.gguf") });
  const found = await ours("nf4", RANKS);
  const slices: object[] = [];
  for (const [i, rank] of RANKS.entries()) {
    const logits = at(`rank-${rank}.safetensors`);
    const tensors = found[i]!.logits.map((row, k) => ({
      name: String(k),
      dtype: "F32" as const,
      shape: [row.length],
      content: bytesOf(row),
    }));
    await (await openFolder(folder)).write(`rank-${rank}.safetensors`, encodeSafetensors(tensors));
    slices.push({ rank, folder: at(`peft/rank-${rank}`), logits });
  }
  await writeFile(at("peft.json"), JSON.stringify({ gguf: at("base-f32.gguf"), sequences: prompts, slices }));
  const { versions, results } = JSON.parse(await python([PEFT_ORACLE, at("peft.json")]));
  expect(results).toHaveLength(RANKS.length);
  for (const result of results) {
    printed.push(`peft: ${JSON.stringify(result)} ${JSON.stringify(versions)}`);
    expect(result.relative).toBeLessThan(1e-4);
    expect(result.worstRow).toBeLessThan(2e-4);
    expect(result.sameTopToken).toBe(1);
    expect(result.adapterEffect).toBeGreaterThan(100 * result.relative);
  }
});

interface Scored {
  readonly ids: number[];
  /** Of each token after the first: whether the loss looks at it. */
  readonly looks: boolean[];
}

/** Mean loss of llama.cpp over the tokens that ours looks at. */
async function lossInLlamaCpp(job: Pick<Job, "model" | "lora">, samples: readonly Scored[]): Promise<number> {
  const { score } = await ask({ ...job, score: samples.map(({ ids }) => ids) });
  let [sum, count] = [0, 0];
  for (const [i, { looks }] of samples.entries())
    for (const [k, look] of looks.entries()) {
      if (!look) continue;
      sum -= score[i]![k]!;
      count++;
    }
  return sum / count;
}

/** Our losses at each rank on JSONL, computed in f32, with the samples. */
async function ourLosses(file: string, baseFormat: "f32" | "nf4", ranks: readonly number[], limit: number) {
  await using files = await openModelFiles(model);
  const dataset = await readData(file, files.tokenizer, { seq: 512, overlong: "split" });
  const samples = dataset.samples.slice(0, limit);
  await using base = await openBase(files, { baseFormat, compute: "f32", backend: "cpu" });
  using adapter = await loadAdapter(base);
  const scores = await scoreRanks({ ...base, adapter, samples, ranks, metric: null, seed: 1 });
  const scored = samples.map(
    ({ tokens, supervised }): Scored => ({
      ids: [...tokens],
      looks: [...supervised].slice(1).map((flag) => flag === 1),
    }),
  );
  return { losses: scores.map(({ loss }) => loss.value), samples: scored };
}

test("perplexity is that of the original Q4_1 file within 1 %", async () => {
  const texts = await Promise.all(DOCS.map((file) => readFile(file, "utf8")));
  const rows = texts.flatMap((text) => text.match(/[\s\S]{1,1200}/g) ?? []).slice(0, 8);
  await writeFile(at("texts.jsonl"), rows.map((text) => JSON.stringify({ text })).join("\n"));
  const { losses, samples } = await ourLosses(at("texts.jsonl"), "f32", [0], rows.length);
  const theirs = await lossInLlamaCpp({ model }, samples);
  const ratio = Math.exp(losses[0]! - theirs);
  const tokens = samples.reduce((sum, { ids }) => sum + ids.length - 1, 0);
  printed.push(
    `perplexity over ${tokens} tokens: ours ${Math.exp(losses[0]!).toFixed(4)}, llama.cpp on Q4_1 ${Math.exp(theirs).toFixed(4)}, ratio ${ratio.toFixed(5)}`,
  );
  expect(Math.abs(ratio - 1)).toBeLessThan(0.01);
});

test("held-out loss with the adapters: ours, llama.cpp's on the dequantised base, and on the original file", async () => {
  const file = process.env.QDYLORA_HELD_OUT || bundledData().heldOut;
  const { losses, samples } = await ourLosses(file, "nf4", [0, ...RANKS], 8);
  for (const [i, rank] of RANKS.entries()) {
    const own = losses[i + 1]!;
    const onBase = await lossInLlamaCpp({ model: at("base-nf4-dequantised.gguf"), lora: loraOf(rank) }, samples);
    const onOriginal = await lossInLlamaCpp({ model, lora: loraOf(rank) }, samples);
    printed.push(
      `rank ${rank}: loss ours ${own.toFixed(4)}, llama.cpp on the base ${onBase.toFixed(4)}, on the original file ${onOriginal.toFixed(4)}; base alone ${losses[0]!.toFixed(4)}`,
    );
    expect(Math.abs(onBase - own)).toBeLessThan(2e-3);
    expect(own).toBeLessThan(losses[0]!);
  }
});
