// What a user can get wrong, and what they hear: one row a kind of bad input. Each gives its code, a hint and its exit code,
// and leaves every file as it was. Each code of the table is met here, or says where else it is met.

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ERROR_CODES, type ErrorCode } from "../../src/errors.ts";
import { checkpointName } from "../../src/train/checkpoint.ts";
import { CONFIG_JSON, jsonl, qdylora, TinyProject, tinyTensors, writeTensors } from "../cli/tiny-project.ts";

interface Case {
  readonly name: string;
  readonly code: ErrorCode;
  /** Spoils the project; what it leaves is what must not change. */
  readonly spoil?: (project: TinyProject) => void | Promise<void>;
  readonly argv: (project: TinyProject) => string[];
  /** What the message or hint must say. */
  readonly says?: string | RegExp;
}

const REFERENCE = ["--backend", "reference"];
const train = (p: TinyProject, ...more: string[]): string[] => [
  ...["train", "--model", p.path("model"), "--data", p.path("train.jsonl"), "--output", p.path("new"), ...REFERENCE],
  ...["--rank-max", "2", "--steps", "1", "--batch", "2", "--held-out", "0", ...more],
];
const config = (change: Record<string, unknown>) => (p: TinyProject) =>
  p.write("model/config.json", JSON.stringify({ ...CONFIG_JSON, ...change }));
const weights = (change: Parameters<typeof tinyTensors>[0]) => (p: TinyProject) =>
  writeTensors(p.path("model/model.safetensors"), tinyTensors(change));
const Q_PROJ = "model.layers.0.self_attn.q_proj.weight";
const use = (p: TinyProject, ...more: string[]): string[] => [
  "generate",
  p.path("run"),
  "--model",
  p.path("model"),
  "--prompt",
  "say tap:",
  ...REFERENCE,
  ...more,
];
const merge = (p: TinyProject, ...more: string[]): string[] => [
  ...["export", p.path("run"), "--format", "merged", "--onto", "original", "--model", p.path("model")],
  ...["--output", p.path("new"), ...REFERENCE, ...more],
];
const compress = (p: TinyProject, adapter: string, ...more: string[]): string[] => [
  ...["compress", adapter, "--model", p.path("model"), "--output", p.path("new"), ...more],
];
const file = (name: string, content: string) => (p: TinyProject) => p.write(name, content);
/** A safetensors file with this header, and no data. */
const header = (text: string) => (p: TinyProject) => {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  p.write("model/model.safetensors", Buffer.concat([length, Buffer.from(text)]));
};

const CASES: readonly Case[] = [
  // The command line
  { name: "an unknown command", code: "USAGE", argv: () => ["trian"], says: "Did you mean train" },
  { name: "an unknown flag", code: "USAGE", argv: (p) => train(p, "--rnk-max", "4"), says: "--rank-max" },
  { name: "a missing argument", code: "USAGE", argv: () => ["eval"], says: "adapter" },
  { name: "a flag without its value", code: "USAGE", argv: () => ["quickstart", "--output"], says: "--output" },
  { name: "too many arguments", code: "USAGE", argv: () => ["doctor", "now"] },

  // Settings
  {
    name: "an unknown key in the config file",
    code: "CONFIG_INVALID",
    spoil: file("c.yaml", "rankMax: 4\n"),
    argv: (p) => [...train(p), p.path("c.yaml")],
    says: /c\.yaml:1 rankMax.*Did you mean rank-max/s,
  },
  {
    name: "a word that is no choice",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--schedule", "cosin"),
    says: "Did you mean cosine",
  },
  {
    name: "text where a number belongs",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--batch", "many"),
    says: "whole number",
  },
  {
    name: "several wrong settings at once",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--lr", "-1", "--batch", "x", "--clip", "-2"),
    says: /3 settings.*--batch.*--lr.*--clip/s,
  },
  {
    name: "an adapter on lm_head",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--targets", "q_proj,lm_head"),
    says: "stay in 16 bit",
  },
  {
    name: "a misspelt target",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--targets", "q_porj"),
    says: "Did you mean q_proj",
  },
  {
    name: "a batch that cannot be split",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--accumulation", "3"),
    says: "divisor",
  },
  {
    name: "steps and epochs together",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--epochs", "2"),
    says: "not both",
  },
  {
    name: "no model",
    code: "CONFIG_INVALID",
    argv: (p) => ["train", "--data", p.path("train.jsonl"), "--output", p.path("new")],
    says: "--model is missing",
  },
  { name: "a probability above 1", code: "CONFIG_INVALID", argv: (p) => train(p, "--distribution", "geometric:2") },
  {
    name: "weights for other ranks",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--distribution", "weights:1,2,3"),
    says: "2 weights",
  },
  { name: "a size without a unit", code: "CONFIG_INVALID", argv: (p) => train(p, "--memory", "24"), says: "24GiB" },
  { name: "no thread", code: "CONFIG_INVALID", argv: (p) => train(p, "--threads", "0") },
  {
    name: "an adapter whose base has no hub id, without --model",
    code: "CONFIG_INVALID",
    argv: (p) => ["generate", p.path("run"), "--prompt", "a"],
    says: "--model",
  },
  { name: "nothing to speak with", code: "CONFIG_INVALID", argv: () => ["generate", "--prompt", "a"] },
  { name: "nothing to inspect", code: "CONFIG_INVALID", argv: () => ["inspect"] },
  {
    name: "another format than the checkpoint's",
    code: "CONFIG_INVALID",
    argv: (p) => ["generate", "--model", p.path("nf4"), "--base-format", "fp4", "--prompt", "a", ...REFERENCE],
    says: "already quantised",
  },
  {
    name: "samplers out of range",
    code: "CONFIG_INVALID",
    argv: (p) => use(p, "--min-p", "2", "--repetition-penalty", "0", "--stop", '[""]'),
    says: /3 settings.*minP.*repetitionPenalty.*stop/s,
  },
  { name: "a temperature below 0", code: "CONFIG_INVALID", argv: (p) => use(p, "--temperature", "-1") },
  {
    name: "YAML that does not parse",
    code: "CONFIG_UNREADABLE",
    spoil: file("c.yaml", "a: [1\nb: 2"),
    argv: (p) => ["train", p.path("c.yaml")],
    says: /line 2/,
  },
  {
    name: "YAML that is a list",
    code: "CONFIG_UNREADABLE",
    spoil: file("c.yaml", "- a\n"),
    argv: (p) => ["train", p.path("c.yaml")],
  },

  // Ranks
  { name: "largest rank 0", code: "RANK_OUT_OF_RANGE", argv: (p) => train(p, "--rank-max", "0") },
  {
    name: "a rank above the largest in training",
    code: "RANK_OUT_OF_RANGE",
    argv: (p) => train(p, "--ranks", "1,2,4"),
  },
  { name: "a rank above the adapter's", code: "RANK_OUT_OF_RANGE", argv: (p) => use(p, "--rank", "3"), says: "1 to 2" },
  {
    name: "rank 0 to export",
    code: "RANK_OUT_OF_RANGE",
    argv: (p) => ["export", p.path("run"), "--rank", "0", "--output", p.path("new")],
  },
  {
    name: "a rank above the adapter's among several to export",
    code: "RANK_OUT_OF_RANGE",
    argv: (p) => ["export", p.path("run"), "--ranks", "1,3", "--output", p.path("new")],
    says: "1 to 2",
  },
  {
    name: "one rank and several to export",
    code: "CONFIG_INVALID",
    argv: (p) => ["export", p.path("run"), "--rank", "1", "--ranks", "1,2", "--output", p.path("new")],
    says: "not both",
  },
  {
    name: "settings of a merge for another format",
    code: "CONFIG_INVALID",
    argv: (p) => ["export", p.path("run"), "--onto", "original", "--threads", "2", "--output", p.path("new")],
    says: /2 settings.*onto.*threads/s,
  },
  {
    name: "merging into a base that is not named",
    code: "CONFIG_INVALID",
    argv: (p) => ["export", p.path("run"), "--format", "merged", "--output", p.path("new"), ...REFERENCE],
    says: "--model",
  },
  {
    name: "a GGUF adapter of a base that is not named",
    code: "CONFIG_INVALID",
    argv: (p) => ["export", p.path("run"), "--format", "gguf", "--output", p.path("new")],
    says: "--model",
  },
  {
    name: "settings of a merge for a GGUF adapter",
    code: "CONFIG_INVALID",
    argv: (p) => ["export", p.path("run"), "--format", "gguf", "--onto", "original", "--output", p.path("new")],
    says: "format merged or merged-gguf",
  },
  {
    name: "a GGUF file over another file",
    code: "FILE_EXISTS",
    argv: (p) => ["convert", p.path("model"), "--output", p.path("train.jsonl"), ...REFERENCE],
    says: "train.jsonl",
  },
  {
    name: "a tokenizer that GGUF has no name for",
    code: "TOKENIZER_INVALID",
    spoil: (p) => {
      const json = JSON.parse(readFileSync(p.path("model/tokenizer.json"), "utf8"));
      writeFileSync(p.path("model/tokenizer.json"), JSON.stringify({ ...json, pre_tokenizer: { type: "Whitespace" } }));
    },
    argv: (p) => ["convert", p.path("model"), "--output", p.path("new.gguf"), ...REFERENCE],
    says: "llama.cpp",
  },
  {
    name: "a dtype that does not exist",
    code: "CONFIG_INVALID",
    argv: (p) => ["export", p.path("run"), "--dtype", "lora_A=f8", "--output", p.path("new")],
    says: "bf16,norm=f32",
  },
  {
    name: "a rank above the adapter's in evaluation",
    code: "RANK_OUT_OF_RANGE",
    argv: (p) => [
      "eval",
      p.path("run"),
      "--model",
      p.path("model"),
      "--data",
      p.path("test.jsonl"),
      "--ranks",
      "1,9",
      ...REFERENCE,
    ],
  },
  {
    name: "a rank without an adapter",
    code: "RANK_OUT_OF_RANGE",
    argv: (p) => ["generate", "--model", p.path("model"), "--rank", "2", "--prompt", "a", ...REFERENCE],
  },

  // Files
  { name: "a shard outside the folder", code: "PATH_UNSAFE", spoil: shardIndex("../train.jsonl"), argv: train },
  {
    name: "a shard that is not there",
    code: "FILE_NOT_FOUND",
    spoil: shardIndex("model-00001-of-00001.safetensors"),
    argv: train,
  },
  { name: "a model that is nowhere", code: "FILE_NOT_FOUND", argv: (p) => train(p, "--model", p.path("nowhere")) },
  { name: "data that is not there", code: "FILE_NOT_FOUND", argv: (p) => train(p, "--data", p.path("none.jsonl")) },
  { name: "a config file that is not there", code: "FILE_NOT_FOUND", argv: () => ["train", "none.yaml"] },
  {
    name: "an adapter that is not there",
    code: "FILE_NOT_FOUND",
    argv: (p) => ["export", p.path("none"), "--output", p.path("new")],
  },
  { name: "a folder as config file", code: "FILE_UNREADABLE", argv: (p) => ["train", p.path("model")] },
  {
    name: "exporting over an adapter",
    code: "FILE_EXISTS",
    argv: (p) => ["export", p.path("run"), "--output", p.path("run")],
  },
  {
    name: "quantising into a folder in use",
    code: "FILE_EXISTS",
    argv: (p) => ["quantize", p.path("model"), "--output", p.path("run"), ...REFERENCE],
  },
  {
    name: "an output below a file",
    code: "WRITE_FAILED",
    argv: (p) => train(p, "--output", p.path("train.jsonl/new")),
  },
  {
    name: "an exported adapter below a file",
    code: "WRITE_FAILED",
    argv: (p) => ["export", p.path("run"), "--output", p.path("train.jsonl/new")],
  },

  // Weights
  {
    name: "a weights file of nothing",
    code: "SAFETENSORS_INVALID",
    spoil: file("model/model.safetensors", ""),
    argv: train,
  },
  {
    name: "a truncated weights file",
    code: "SAFETENSORS_INVALID",
    spoil: (p) => truncateSync(p.path("model/model.safetensors"), 5000),
    argv: train,
  },
  { name: "a header that is no JSON", code: "SAFETENSORS_INVALID", spoil: header("{not json"), argv: train },
  {
    name: "a header that lies about sizes",
    code: "SAFETENSORS_INVALID",
    spoil: header(JSON.stringify({ a: { dtype: "F32", shape: [4], data_offsets: [0, 8] } })),
    argv: train,
  },
  {
    name: "a header longer than its file",
    code: "SAFETENSORS_INVALID",
    spoil: (p) => p.write("model/model.safetensors", Buffer.from([255, 255, 255, 0, 0, 0, 0, 0, 123])),
    argv: train,
  },
  {
    name: "a missing tensor",
    code: "TENSOR_MISSING",
    spoil: weights((t) => void t.delete(Q_PROJ)),
    argv: train,
    says: "q_proj",
  },
  {
    name: "a tensor of another shape",
    code: "TENSOR_SHAPE",
    spoil: weights((t) => void t.set(Q_PROJ, { ...t.get(Q_PROJ)!, shape: [16, 64] })),
    argv: train,
    says: "q_proj",
  },
  {
    name: "a weight of whole numbers",
    code: "TENSOR_DTYPE",
    spoil: weights((t) => void t.set(Q_PROJ, { ...t.get(Q_PROJ)!, dtype: "I32" })),
    argv: train,
    says: "I32",
  },
  {
    name: "a NaN weight",
    code: "TENSOR_NONFINITE",
    spoil: weights((t) => void new Float32Array((t.get(Q_PROJ)!.content as Uint8Array).buffer).fill(Number.NaN, 7, 8)),
    argv: train,
    says: "q_proj",
  },
  {
    name: "a damaged quantisation state",
    code: "QUANT_STATE_INVALID",
    spoil: (p) => damage(p, "nf4/model.safetensors", '"blocksize"', '"blocksiz3"'),
    argv: (p) => ["generate", "--model", p.path("nf4"), "--prompt", "a", ...REFERENCE],
  },

  // Models
  {
    name: "config.json that is no JSON",
    code: "MODEL_CONFIG_INVALID",
    spoil: file("model/config.json", "{"),
    argv: train,
  },
  {
    name: "heads that do not share evenly",
    code: "MODEL_CONFIG_INVALID",
    spoil: config({ num_attention_heads: 3, num_key_value_heads: 2 }),
    argv: train,
  },
  {
    name: "another architecture",
    code: "MODEL_UNSUPPORTED",
    spoil: config({ architectures: ["MambaForCausalLM"], model_type: "mamba" }),
    argv: train,
    says: "MambaForCausalLM",
  },
  {
    name: "a GGUF file that is cut off",
    code: "GGUF_INVALID",
    spoil: file("m.gguf", "GGUF"),
    argv: (p) => train(p, "--model", p.path("m.gguf")),
    says: "version is cut off",
  },
  {
    name: "a file of another kind as model",
    code: "MODEL_UNSUPPORTED",
    spoil: file("m.bin", "PK"),
    argv: (p) => train(p, "--model", p.path("m.bin")),
    says: "a .gguf file",
  },
  {
    name: "columns that make no row",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--columns", "prompt=question"),
    says: "completion=KEY",
  },
  {
    name: "a column that rows do not have",
    code: "DATA_ROW_INVALID",
    argv: (p) => train(p, "--columns", "text=body"),
    says: 'expected "body" because it is the text',
  },
  {
    name: "no tokenizer",
    code: "TOKENIZER_INVALID",
    spoil: (p) => rmSync(p.path("model/tokenizer.json")),
    argv: train,
  },
  {
    name: "a tokenizer without vocabulary",
    code: "TOKENIZER_INVALID",
    spoil: file("model/tokenizer.json", '{"model": {}}'),
    argv: train,
  },
  {
    name: "an end token that does not exist",
    code: "TOKENIZER_INVALID",
    spoil: file("model/tokenizer_config.json", '{"eos_token": "<gone>"}'),
    argv: train,
  },
  {
    name: "a tokenizer larger than the embedding",
    code: "VOCABULARY_MISMATCH",
    spoil: config({ vocab_size: 300 }),
    argv: train,
  },
  {
    name: "chat data without a template",
    code: "TEMPLATE_MISSING",
    spoil: (p) => chatData(p, null),
    argv: (p) => train(p, "--data", p.path("chat.jsonl")),
  },
  {
    name: "a template that does not parse",
    code: "TEMPLATE_FAILED",
    spoil: (p) => chatData(p, "{% for m in %}"),
    argv: (p) => train(p, "--data", p.path("chat.jsonl")),
  },

  // Data
  {
    name: "an empty data file",
    code: "DATA_EMPTY",
    spoil: file("e.jsonl", "\n\n"),
    argv: (p) => train(p, "--data", p.path("e.jsonl")),
  },
  { name: "a folder without data", code: "DATA_EMPTY", argv: (p) => train(p, "--data", p.path("model")) },
  { name: "holding out everything", code: "DATA_EMPTY", argv: (p) => train(p, "--held-out", "12") },
  {
    name: "a line that is no JSON",
    code: "DATA_ROW_INVALID",
    spoil: file("b.jsonl", '{"text": "a"}\n{"text": \n'),
    argv: (p) => train(p, "--data", p.path("b.jsonl")),
    says: /b\.jsonl:2/,
  },
  {
    name: "a row of unknown keys",
    code: "DATA_ROW_INVALID",
    spoil: file("b.jsonl", '{"question": "a", "answer": "b"}\n'),
    argv: (p) => train(p, "--data", p.path("b.jsonl")),
    says: "question",
  },
  { name: "a sample that is too long", code: "DATA_OVERLONG", argv: (p) => train(p, "--seq", "5"), says: "--overlong" },
  { name: "a prompt that is too long", code: "DATA_OVERLONG", argv: (p) => use(p, "--prompt", "a b ".repeat(80)) },
  {
    name: "a spreadsheet",
    code: "DATA_UNSUPPORTED",
    spoil: file("d.csv", "a,b\n"),
    argv: (p) => train(p, "--data", p.path("d.csv")),
  },
  {
    name: "a metric on plain text",
    code: "DATA_UNSUPPORTED",
    spoil: file("t.jsonl", '{"text": "tap net"}\n'),
    argv: (p) => [
      "eval",
      p.path("run"),
      "--model",
      p.path("model"),
      "--data",
      p.path("t.jsonl"),
      "--metric",
      "exact-match",
      ...REFERENCE,
    ],
  },

  // Adapters and runs
  {
    name: "a folder that is no adapter",
    code: "ADAPTER_INVALID",
    argv: (p) => ["export", p.path("model"), "--output", p.path("new")],
  },
  {
    name: "a manifest of another kind",
    code: "ADAPTER_INVALID",
    spoil: file("run/qdylora.json", '{"format": "other"}'),
    argv: use,
  },
  {
    name: "an adapter for a model of another shape",
    code: "ADAPTER_INVALID",
    spoil: otherShape,
    argv: (p) => [...use(p, "--force-base"), "--model", p.path("other")],
  },
  {
    name: "a truncated adapter",
    code: "SAFETENSORS_INVALID",
    spoil: (p) => truncateSync(p.path("run/adapter_model.safetensors"), 900),
    argv: use,
  },
  {
    name: "an adapter of another base",
    code: "ADAPTER_BASE_MISMATCH",
    spoil: weights((t) => void new Float32Array((t.get(Q_PROJ)!.content as Uint8Array).buffer).fill(0.5, 7, 8)),
    argv: use,
    says: "--force-base",
  },
  {
    name: "merging into another base",
    code: "ADAPTER_BASE_MISMATCH",
    spoil: weights((t) => void new Float32Array((t.get(Q_PROJ)!.content as Uint8Array).buffer).fill(0.5, 7, 8)),
    argv: (p) => merge(p),
    says: "--force-base",
  },
  {
    name: "merged weights that do not fit f16",
    code: "TENSOR_NONFINITE",
    argv: (p) => merge(p, "--dtype", "f16", "--force-base"),
    spoil: weights((t) => void new Float32Array((t.get(Q_PROJ)!.content as Uint8Array).buffer).fill(1e6, 7, 8)),
    says: /1000000 .*f16.*--dtype/s,
  },
  {
    name: "an adapter to start from that has no room",
    code: "CONFIG_INVALID",
    argv: (p) => train(p, "--init-adapter", p.path("run"), "--rank-max", "1", "--targets", "q_proj"),
    says: /3 settings.*rankMax is 1, expected at least 2.*k_proj.*alpha\/R or one/s,
  },
  {
    name: "an adapter to start from that is not there",
    code: "FILE_NOT_FOUND",
    argv: (p) => train(p, "--init-adapter", p.path("none"), "--scale", "one"),
  },
  {
    name: "compressing a folder that is no LoRA",
    code: "FILE_NOT_FOUND",
    argv: (p) => compress(p, p.path("model")),
    says: "adapter_config.json",
  },
  {
    name: "compressing an adapter of another method",
    code: "ADAPTER_INVALID",
    spoil: (p) => damage(p, "run/adapter_config.json", '"LORA"', '"LOHA"'),
    argv: (p) => compress(p, p.path("run")),
    says: "peft_type",
  },
  {
    name: "compressing to more than the LoRA has",
    code: "RANK_OUT_OF_RANGE",
    argv: (p) => compress(p, p.path("run"), "--rank-max", "3"),
    says: "1 to 2",
  },
  {
    name: "compressing a LoRA of another model",
    code: "ADAPTER_INVALID",
    spoil: otherShape,
    argv: (p) => ["compress", p.path("run"), "--model", p.path("other"), "--output", p.path("new")],
    says: "because of the model's shape",
  },
  {
    name: "compressing into a folder in use",
    code: "FILE_EXISTS",
    argv: (p) => ["compress", p.path("run"), "--model", p.path("model"), "--output", p.path("run")],
  },
  {
    name: "a run folder in use",
    code: "RUN_LOCKED",
    spoil: file("run/run.lock", JSON.stringify({ pid: process.pid, startTime: null })),
    argv: (p) => train(p, "--output", p.path("run"), "--resume"),
    says: String(process.pid),
  },
  {
    name: "a folder that holds a run",
    code: "RUN_EXISTS",
    argv: (p) => train(p, "--output", p.path("run")),
    says: "--resume",
  },
  {
    name: "a truncated checkpoint",
    code: "SAFETENSORS_INVALID",
    spoil: (p) => truncateSync(p.path(`run/${checkpointName(2)}`), 3000),
    argv: (p) => resume(p),
  },
  {
    name: "a checkpoint without state",
    code: "CHECKPOINT_INVALID",
    spoil: (p) => damage(p, `run/${checkpointName(2)}`, '\\"step\\":2', '\\"stop\\":2'),
    argv: (p) => resume(p),
  },
  {
    name: "resuming with other settings",
    code: "RESUME_MISMATCH",
    argv: (p) => resume(p, "--alpha", "3"),
    says: "alpha",
  },
  {
    name: "a run that diverges",
    code: "LOSS_NONFINITE",
    argv: (p) => train(p, "--lr", "1e30", "--clip", "0", "--steps", "9"),
    says: "--lr",
  },

  // Machines and the hub
  { name: "too little memory", code: "MEMORY_EXCEEDED", argv: (p) => train(p, "--memory", "2KiB"), says: "--memory" },
  {
    name: "a hub that cannot be reached",
    code: "HUB_OFFLINE",
    argv: (p) => train(p, "--model", "owner/offline"),
    says: "hub",
  },
  {
    name: "a model that the hub does not have",
    code: "HUB_NOT_FOUND",
    argv: (p) => train(p, "--model", "owner/missing"),
  },
  {
    name: "a model that the hub keeps to itself",
    code: "HUB_UNAUTHORIZED",
    argv: (p) => train(p, "--model", "owner/private"),
    says: "HF_TOKEN",
  },
];

/** Codes that no input of a user can bring about here, and where they are tested. */
const ELSEWHERE: Partial<Record<ErrorCode, string>> = {
  HUB_DOWNLOAD_FAILED: "test/formats: a server that lies about sizes and hashes",
  BACKEND_UNAVAILABLE:
    "below: it takes a machine without a compiler, or a name that the command line does not let through",
  OP_UNSUPPORTED: "test/ops: every kernel is there for the models that can be opened",
  DEVICE_FAILED: "test/backends/cuda.test.ts: a device that breaks while it works",
  OP_ARGUMENT: "test/ops: a bug in a caller",
  TENSOR_STALE: "test/ops: a bug in a caller",
  INTERRUPTED: "test/cli/flow.test.ts: no bad input",
};

function shardIndex(shard: string) {
  return (p: TinyProject): void => {
    rmSync(p.path("model/model.safetensors"));
    p.write("model/model.safetensors.index.json", JSON.stringify({ weight_map: { [Q_PROJ]: shard } }));
  };
}

function damage(p: TinyProject, name: string, from: string, to: string): void {
  const text = p.bytes(name).toString("latin1");
  expect(text).toContain(from);
  p.write(name, Buffer.from(text.replaceAll(from, to), "latin1"));
}

function chatData(p: TinyProject, template: string | null): void {
  p.write(
    "chat.jsonl",
    jsonl([
      {
        messages: [
          { role: "user", content: "hi" },
          { role: "assistant", content: "ho" },
        ],
      },
    ]),
  );
  if (template === null) rmSync(p.path("model/chat_template.jinja"));
  else p.write("model/chat_template.jinja", template);
}

async function otherShape(p: TinyProject): Promise<void> {
  for (const name of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
    p.write(`other/${name}`, p.bytes(`model/${name}`));
  p.write("other/config.json", JSON.stringify({ ...CONFIG_JSON, intermediate_size: 24 }));
  const tensors = tinyTensors().map((tensor) => {
    if (!/gate_proj|up_proj|down_proj/.test(tensor.name)) return tensor;
    const shape = tensor.shape.map((size) => (size === 48 ? 24 : size));
    return { ...tensor, shape, content: (tensor.content as Uint8Array).subarray(0, 24 * 32 * 4) };
  });
  await writeTensors(p.path("other/model.safetensors"), tensors);
}

const RUN = ["--steps", "2", "--checkpoint-every", "1", "--rank-max", "2", "--batch", "2", "--held-out", "0"];
const runArgv = (p: TinyProject): string[] => [
  "train",
  "--model",
  p.path("model"),
  "--data",
  p.path("train.jsonl"),
  "--output",
  p.path("run"),
  ...REFERENCE,
  ...RUN,
];
const resume = (p: TinyProject, ...more: string[]): string[] => [...runArgv(p), "--resume", ...more];

let server: Server;
const saved: Record<string, string | undefined> = {};
function setEnv(values: Record<string, string>): void {
  for (const [name, value] of Object.entries(values)) {
    saved[name] ??= process.env[name];
    process.env[name] = value;
  }
}

/** A trained project, copied for each case. */
let template: TinyProject;
let project: TinyProject;

beforeAll(async () => {
  template = await TinyProject.create();
  expect((await qdylora(runArgv(template))).code).toBe(0);
  expect(
    (await qdylora(["quantize", template.path("model"), "--output", template.path("nf4"), ...REFERENCE])).code,
  ).toBe(0);
  server = createServer((request, response) => {
    response.statusCode = request.url?.includes("/owner/private") ? 401 : 404;
    response.setHeader("content-type", "application/json");
    response.end('{"error": "no"}');
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterAll(() => {
  server.close();
  template[Symbol.dispose]();
});
beforeEach(() => {
  project = template.copy();
  const { port } = server.address() as { port: number };
  setEnv({ HF_ENDPOINT: `http://127.0.0.1:${port}`, HF_HOME: project.path("hf"), HF_HUB_OFFLINE: "0", HF_TOKEN: "" });
});
afterEach(() => {
  project[Symbol.dispose]();
  for (const [name, value] of Object.entries(saved)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

describe("bad input", () => {
  test("comes in at least 40 kinds", () => {
    expect(new Set(CASES.map(({ name }) => name)).size).toBeGreaterThanOrEqual(40);
  });

  test.each(CASES)("$name: $code", async ({ code, spoil, argv, says }) => {
    await spoil?.(project);
    if (code === "HUB_OFFLINE") process.env.HF_HUB_OFFLINE = "1";
    const before = project.hash();
    const outcome = await qdylora([...argv(project), "--json"]);
    expect(outcome.out, outcome.err).not.toBe("");
    const { error } = JSON.parse(outcome.out) as { error: { code: string; message: string; hint: string | null } };
    expect(error.code, outcome.err).toBe(code);
    expect(outcome.code).toBe(ERROR_CODES[code].exit);
    expect(error.hint ?? "", "a hint").not.toBe("");
    if (says) expect(`${error.message}\n${error.hint}`).toMatch(says);
    expect(outcome.err).not.toMatch(/\n\s+at /);
    // A run that was begun and failed leaves its log in its own new folder, and nothing else anywhere.
    if (code === "LOSS_NONFINITE") rmSync(project.path("new"), { recursive: true });
    rmSync(project.path("hf"), { recursive: true, force: true });
    expect(project.hash(), "files are as they were").toBe(before);
  });
});

describe("what the table cannot show", () => {
  test("a disk that fills up while an adapter is exported: WRITE_FAILED, and nothing half-written", () => {
    const program = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));
    mkdirSync(project.path("new"));
    const before = project.hash();
    // A file may have 4 KiB here: writing beyond fails as on a full disk.
    const line = `trap '' XFSZ; ulimit -f 4; exec "$0" "$1" export "$2" --output "$3" --json`;
    const run = spawnSync("bash", ["-c", line, process.execPath, program, project.path("run"), project.path("new")], {
      encoding: "utf8",
    });
    expect(run.status, run.stderr).toBe(ERROR_CODES.WRITE_FAILED.exit);
    expect(JSON.parse(run.stdout)).toMatchObject({ error: { code: "WRITE_FAILED" } });
    expect(project.hash()).toBe(before);
  });

  test("a backend that does not exist: BACKEND_UNAVAILABLE", async () => {
    const { openDevice } = await import("../../src/verbs/open-device.ts");
    await expect(openDevice({ backend: "tpu" as never })).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
      hint: expect.stringContaining("cpu"),
    });
  });

  test("a bug shows no stack unless asked, and exits with 70", async () => {
    const io = {
      lines: (): never => {
        throw new Error("boom");
      },
    };
    const quiet = await qdylora(["generate", project.path("run")], { io });
    expect(quiet.code).toBe(70);
    expect(quiet.err).toContain("boom");
    expect(quiet.err).not.toMatch(/\n\s+at /);
    expect((await qdylora(["generate", project.path("run"), "--debug"], { io })).err).toMatch(/\n\s+at /);
  });

  test("every code is met in this file, or says where", () => {
    const met = new Set<string>(CASES.map(({ code }) => code));
    for (const code of Object.keys(ERROR_CODES) as ErrorCode[])
      expect(met.has(code) !== code in ELSEWHERE, code).toBe(true);
  });
});
