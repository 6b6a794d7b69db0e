// A project of a user, small enough for the reference backend: a model folder with seeded random weights, training data,
// and the command line run in this process.

import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Io } from "../../src/cli/io.ts";
import { main } from "../../src/cli/main.ts";
import { bytesOf, encodeSafetensors, type TensorToWrite } from "../../src/formats/safetensors.ts";
import { linearPath } from "../../src/model/families/index.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { randomStream } from "../../src/random/philox.ts";

const TOKENIZER = fileURLToPath(new URL("../fixtures/tokenizer-tiny/byte-level.json", import.meta.url));
const VOCABULARY = 344;

export const CONFIG_JSON = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: VOCABULARY,
  hidden_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  intermediate_size: 48,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
  hidden_act: "silu",
  eos_token_id: 1,
};

const TEMPLATE =
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/** The weights of CONFIG_JSON, f32, seeded. `change` may replace or add tensors before they are written. */
export function tinyTensors(change: (tensors: Map<string, TensorToWrite>) => void = () => {}): TensorToWrite[] {
  const config = parseModelConfig(CONFIG_JSON);
  const tensors = new Map<string, TensorToWrite>();
  const put = (name: string, shape: number[], value: (index: number) => number): void => {
    const count = shape.reduce((a, b) => a * b, 1);
    tensors.set(name, {
      name,
      dtype: "F32",
      shape,
      content: bytesOf(Float32Array.from({ length: count }, (_, i) => value(i))),
    });
  };
  const random = (name: string, spread: number) => {
    const stream = randomStream(5, name);
    return (index: number): number => spread * stream.normal(index);
  };
  put("model.embed_tokens.weight", [config.vocabulary, config.hidden], random("embed", 0.5));
  put("model.norm.weight", [config.hidden], () => 1);
  put("model.layers.0.input_layernorm.weight", [config.hidden], () => 1);
  put("model.layers.0.post_attention_layernorm.weight", [config.hidden], () => 1);
  for (const { name, in: cols, out } of config.block.linears)
    put(`${linearPath("llama", 0, name)}.weight`, [out, cols], random(name, 0.15));
  change(tensors);
  return [...tensors.values()];
}

export async function writeTensors(file: string, tensors: readonly TensorToWrite[]): Promise<void> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of encodeSafetensors(tensors, {})) chunks.push(chunk);
  writeFileSync(file, Buffer.concat(chunks));
}

/** Words and their letters, backwards: something that can be learned. */
const WORDS = [
  "tap",
  "net",
  "raw",
  "god",
  "bus",
  "pin",
  "war",
  "pot",
  "tub",
  "gum",
  "nap",
  "top",
  "was",
  "dog",
  "ten",
  "but",
];
const ROWS = WORDS.map((word) => ({ prompt: `say ${word}:`, completion: ` ${[...word].reverse().join(" ")}` }));

/** A folder with `model/`, `train.jsonl`, `test.jsonl`. Removed by `dispose`. */
export class TinyProject implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "qdylora-test-"));

  static async create(): Promise<TinyProject> {
    const project = new TinyProject();
    mkdirSync(project.path("model"));
    project.write("model/config.json", JSON.stringify(CONFIG_JSON));
    project.write("model/tokenizer_config.json", JSON.stringify({ eos_token: "</s>" }));
    project.write("model/chat_template.jinja", TEMPLATE);
    cpSync(TOKENIZER, project.path("model/tokenizer.json"));
    await writeTensors(project.path("model/model.safetensors"), tinyTensors());
    project.write("train.jsonl", jsonl(ROWS.slice(0, 12)));
    project.write("test.jsonl", jsonl(ROWS.slice(12)));
    return project;
  }

  /** The same files in another folder. */
  copy(): TinyProject {
    const project = new TinyProject();
    cpSync(this.folder, project.folder, { recursive: true });
    return project;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  write(name: string, content: string | Uint8Array): void {
    mkdirSync(join(this.path(name), ".."), { recursive: true });
    writeFileSync(this.path(name), content);
  }

  read(name: string): string {
    return readFileSync(this.path(name), "utf8");
  }

  bytes(name: string): Buffer {
    return readFileSync(this.path(name));
  }

  exists(name: string): boolean {
    return existsSync(this.path(name));
  }

  /** Of every file under the folder: name and content. */
  hash(): string {
    const hash = createHash("sha256");
    for (const name of readdirSync(this.folder, { recursive: true, encoding: "utf8" }).sort()) {
      hash.update(`${name}\0`);
      if (statSync(this.path(name)).isFile()) hash.update(readFileSync(this.path(name)));
    }
    return hash.digest("hex");
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export const jsonl = (rows: readonly unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the command line in this process. `interrupt` gets the function that a Ctrl-C would call. */
export async function qdylora(
  argv: readonly string[],
  options: {
    readonly input?: readonly string[];
    readonly io?: Partial<Io>;
    readonly onErr?: (text: string, interrupt: () => void) => void;
  } = {},
): Promise<Outcome> {
  let out = "";
  let err = "";
  let interrupt = (): void => {};
  const io: Io = {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
      options.onErr?.(text, () => interrupt());
    },
    interactive: false,
    outIsTerminal: false,
    columns: 80,
    env: { NO_COLOR: "1" },
    lines: async function* () {
      yield* options.input ?? [];
    },
    inIsTerminal: false,
    onInterrupt: (handler) => {
      interrupt = handler;
      return () => {};
    },
    exit: () => {},
    ...options.io,
  };
  const code = await main(argv, io);
  return { code, out, err };
}
