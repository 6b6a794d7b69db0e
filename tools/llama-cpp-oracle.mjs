// What llama.cpp says of a GGUF model: greedy continuations with the gap between its two best logits at each token, and
// the probabilities of the tokens of texts. Run by test/verify/llama-cpp.test.ts in a process of its own:
//   node llama-cpp-oracle.mjs FOLDER-OF-NODE-LLAMA-CPP REQUEST.json      (the answer goes to standard output, as JSON)

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, requestFile] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
/** {jobs: [{model, lora?, greedy?: {prompts: id[][], tokens}, score?: id[][], tokenize?: string[]}]} */
const { jobs, threads } = JSON.parse(readFileSync(requestFile, "utf8"));

/** Asks for what comes after a token. */
const ASK = { generateNext: { probabilities: true, options: { temperature: 0 } } };

const llama = await getLlama({ gpu: false, build: "never", progressLogs: false });
const answers = [];
for (const job of jobs) answers.push(await answer(job));
process.stdout.write(JSON.stringify({ answers }), () => process.exit(0));

async function answer({ model: modelPath, lora, greedy, score, tokenize }) {
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({
    contextSize: 2048,
    batchSize: 512,
    threads,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
    ...(lora ? { lora: { adapters: [{ filePath: lora }] } } : {}),
  });
  const sequence = context.getSequence();
  const result = {
    greedy: greedy ? await each(greedy.prompts, (prompt) => continued(sequence, prompt, greedy.tokens)) : [],
    score: score ? await each(score, (ids) => logsOf(sequence, ids)) : [],
    tokenize: (tokenize ?? []).map((text) => model.tokenize(text, true)),
  };
  await context.dispose();
  await model.dispose();
  return result;
}

async function each(items, work) {
  const results = [];
  for (const item of items) results.push(await work(item));
  return results;
}

/** `count` likeliest tokens after a prompt, each with the runner-up and how far its logit is below. */
async function continued(sequence, prompt, count) {
  await sequence.clearHistory();
  let input = prompt.map((id, i) => (i === prompt.length - 1 ? [id, ASK] : id));
  const steps = [];
  for (let i = 0; i < count; i++) {
    const { probabilities } = (await sequence.controlledEvaluate(input)).at(-1).next;
    const [[first, p], [second, q]] = probabilities;
    steps.push({ token: first, second, gap: Math.log(p / q) });
    input = [[first, ASK]];
  }
  return steps;
}

/** log p of each token after the first. */
async function logsOf(sequence, ids) {
  await sequence.clearHistory();
  const results = await sequence.controlledEvaluate(ids.slice(0, -1).map((id) => [id, ASK]));
  return ids.slice(1).map((id, i) => Math.log(results[i].next.probabilities.get(id)));
}
