// The whole way of a user, on the reference backend: train, stop, resume, evaluate, cut, use.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { qdylora, TinyProject } from "./tiny-project.ts";

let project: TinyProject;
const trainFlags = (output: string): string[] => [
  ...[
    "--model",
    project.path("model"),
    "--data",
    project.path("train.jsonl"),
    "--held-out",
    project.path("test.jsonl"),
  ],
  ...["--output", project.path(output), "--backend", "reference", "--rank-max", "4", "--steps", "6", "--batch", "4"],
  ...["--lr", "0.01", "--checkpoint-every", "2", "--metric", "error-rate", "--seq", "32"],
];
const json = (text: string) => JSON.parse(text) as Record<string, never>;

beforeAll(async () => {
  project = await TinyProject.create();
  const { code, err } = await qdylora(["train", ...trainFlags("run")]);
  expect(err).toContain("training: 6 steps");
  expect(code).toBe(0);
});
afterAll(() => project[Symbol.dispose]());

describe("train", () => {
  test("leaves adapter, log and report", () => {
    for (const name of [
      "adapter_config.json",
      "adapter_model.safetensors",
      "qdylora.json",
      "events.jsonl",
      "report.html",
      "report.json",
    ])
      expect(project.exists(`run/${name}`), name).toBe(true);
    expect(project.exists("run/run.lock")).toBe(false);
    const manifest = JSON.parse(project.read("run/qdylora.json"));
    expect(manifest.scores.map(({ rank }: { rank: number }) => rank)).toEqual([0, 1, 2, 4]);
    expect(project.read("run/qdylora.json")).not.toContain(project.folder);
  });

  test("Ctrl-C is acknowledged at once, and a resumed run ends in the same bytes", async () => {
    const stopped = await qdylora(["train", ...trainFlags("again")], {
      onErr: (text, interrupt) => {
        if (text.includes("step 1/6")) interrupt();
      },
    });
    expect(stopped.code).toBe(130);
    expect(stopped.err).toContain("stopping after this step");
    expect(stopped.err).toContain("INTERRUPTED");
    const resumed = await qdylora(["train", ...trainFlags("again"), "--resume"]);
    expect(resumed.code).toBe(0);
    expect(project.bytes("again/adapter_model.safetensors")).toEqual(project.bytes("run/adapter_model.safetensors"));
  });

  test("a second Ctrl-C leaves at once", async () => {
    const exits: number[] = [];
    await qdylora(["train", ...trainFlags("twice")], {
      io: { exit: (code) => exits.push(code) },
      onErr: (text, interrupt) => {
        if (text.includes("step 1/6") || text.includes("stopping")) interrupt();
      },
    });
    expect(exits).toEqual([130]);
  });

  test("reads a config file; a flag wins", async () => {
    project.write(
      "run.yaml",
      `model: ${project.path("model")}\ndata: [${project.path("train.jsonl")}]\nbackend: reference\nrank-max: 2\nsteps: 3\nbatch: 2\nheld-out: 0.2\ntargets: [q_proj, v_proj]\ndistribution: mixture:0.5\n`,
    );
    const { code, out } = await qdylora([
      "train",
      project.path("run.yaml"),
      "--steps",
      "2",
      "--output",
      project.path("yaml"),
      "--json",
    ]);
    expect(code).toBe(0);
    expect(json(out)).toMatchObject({ steps: 2, ranks: [{ rank: 0 }, { rank: 1 }, { rank: 2 }] });
    const { adapter } = JSON.parse(project.read("yaml/qdylora.json"));
    expect(adapter).toMatchObject({
      rankMax: 2,
      targets: ["q_proj", "v_proj"],
      distribution: { kind: "mixture", share: 0.5 },
    });
  });
});

describe("eval and export", () => {
  const evalFlags = ["--backend", "reference", "--metric", "error-rate", "--json"];

  test("a slice scores what the whole adapter scores at that rank, to the bit", async () => {
    const common = ["--data", project.path("test.jsonl"), "--model", project.path("model"), ...evalFlags];
    const whole = await qdylora(["eval", project.path("run"), "--ranks", "1,2,3", ...common]);
    expect(whole.code).toBe(0);
    const exported = await qdylora([
      "export",
      project.path("run"),
      "--rank",
      "2",
      "--output",
      project.path("slice"),
      "--json",
    ]);
    expect(json(exported.out)).toMatchObject({ format: "peft", ranks: [{ rank: 2 }] });
    const slice = await qdylora(["eval", project.path("slice"), "--ranks", "2", ...common]);
    const scores = (text: string) => (JSON.parse(text) as { ranks: { rank: number }[] }).ranks;
    expect(scores(slice.out).at(-1)).toEqual(scores(whole.out).find(({ rank }) => rank === 2));
    expect(scores(whole.out).map(({ rank }) => rank)).toEqual([0, 1, 2, 3]);
  });

  test("several ranks at once, each with a card that shows its quality and how to load it", async () => {
    const flags = ["--ranks", "1,4", "--dtype", "bf16,lora_B=f16", "--output", project.path("slices"), "--json"];
    const { code, out } = await qdylora(["export", project.path("run"), ...flags]);
    expect(code).toBe(0);
    const ranks = [1, 4].map((rank) => ({ rank, output: project.path(`slices/rank-${rank}`) }));
    expect(json(out)).toMatchObject({ output: project.path("slices"), ranks });
    const { scores } = JSON.parse(project.read("run/qdylora.json"));
    const card = project.read("slices/rank-4/README.md");
    for (const { rank, loss, metric } of scores)
      expect(card).toContain(
        rank === 4
          ? `| **4** | **${loss.toFixed(4)}** | **${metric.toFixed(4)}** |`
          : `| ${rank} | ${loss.toFixed(4)} | ${metric.toFixed(4)} |`,
      );
    expect(card).toContain("--max-lora-rank 8 ");
    expect(card).toMatch(/^---\nlibrary_name: peft\n/);
    for (const tool of ["PEFT", "vLLM", "llama.cpp"]) expect(card).toContain(`### ${tool}\n`);
    expect(card).not.toContain(project.folder);
    // From the second byte of the header's length on: every A in bf16, every B in f16.
    const header = project.bytes("slices/rank-1/adapter_model.safetensors").toString("latin1");
    expect(header.match(/lora_A\.weight":\{"dtype":"BF16"/g)).toHaveLength(7);
    expect(header.match(/lora_B\.weight":\{"dtype":"F16"/g)).toHaveLength(7);
  });

  test("merged into what it was trained on it says the same without an adapter; quantised again it is a 4-bit model", async () => {
    const flags = ["--format", "merged", "--rank", "2", "--model", project.path("model"), "--backend", "reference"];
    const merged = await qdylora([
      "export",
      project.path("run"),
      ...flags,
      "--output",
      project.path("merged"),
      "--json",
    ]);
    expect(merged.code, merged.err).toBe(0);
    const [exported] = (JSON.parse(merged.out) as { ranks: { error: { relative: number; ofUpdate: number } }[] }).ranks;
    // Stored in f32, as the model is.
    expect(exported!.error).toEqual({ relative: 0, ofUpdate: 0 });
    const say = async (...more: string[]) => {
      const common = ["--prompt", "say dog:", "--max-new-tokens", "12", "--backend", "reference", "--json"];
      const { out, code } = await qdylora(["generate", ...more, ...common]);
      expect(code).toBe(0);
      return json(out).text;
    };
    const whole = await say(project.path("run"), "--rank", "2", "--model", project.path("model"));
    expect(whole).not.toBe("");
    expect(await say("--model", project.path("merged"), "--base-format", "f32")).toBe(whole);
    expect(project.read("merged/README.md")).toContain("library_name: transformers");
    expect(project.read("merged/tokenizer.json")).toBe(project.read("model/tokenizer.json"));

    const again = [...flags, "--onto", "original", "--requantize", "nf4", "--output", project.path("merged-nf4")];
    const quantised = await qdylora(["export", project.path("run"), ...again]);
    expect(quantised.code, quantised.err).toBe(0);
    expect(quantised.out).toMatch(/off by \d+\.\d\d % of their norm, \d+\.\d\d % of the adapter's share/);
    expect(JSON.parse(project.read("merged-nf4/config.json"))).toHaveProperty("quantization_config");
    expect(await say("--model", project.path("merged-nf4"))).not.toBe("");
  });

  test("as GGUF: the model, the base that adapters see, adapters, the merged model", async () => {
    const reference = ["--backend", "reference"];
    const model = ["--model", project.path("model")];
    const run = async (...argv: string[]) => {
      const { code, err } = await qdylora([...argv, ...reference]);
      expect(code, err).toBe(0);
    };
    const say = async (...more: string[]) => {
      const common = ["--prompt", "say dog:", "--max-new-tokens", "12", ...reference, "--json"];
      const { out, err, code } = await qdylora(["generate", ...more, ...common]);
      expect(code, err).toBe(0);
      return json(out).text;
    };
    const file = (name: string) => ["--model", project.path(name)];
    await run("convert", project.path("model"), "--dtype", "f32", "--output", project.path("same.gguf"));
    const plain = ["--base-format", "f32"];
    expect(await say(...file("same.gguf"), ...plain)).toBe(await say(...model, ...plain));
    await run(
      "convert",
      project.path("model"),
      "--base-format",
      "nf4",
      "--dtype",
      "f32",
      "--output",
      project.path("held.gguf"),
    );
    expect(await say(...file("held.gguf"), ...plain)).toBe(await say(...model, "--base-format", "nf4"));
    const merged = [
      "--rank",
      "2",
      "--format",
      "merged-gguf",
      "--dtype",
      "f32",
      "--output",
      project.path("merged-gguf"),
    ];
    await run("export", project.path("run"), ...merged, ...model);
    const whole = await say(project.path("run"), "--rank", "2", ...model);
    expect(whole).not.toBe("");
    expect(await say(...file("merged-gguf/model.gguf"), ...plain)).toBe(whole);
    const adapters = ["--ranks", "1,4", "--format", "gguf", ...model, "--output", project.path("gguf")];
    const exported = await qdylora(["export", project.path("run"), ...adapters, "--json"]);
    expect(exported.code, exported.err).toBe(0);
    expect(json(exported.out)).toMatchObject({ format: "gguf", ranks: [{ rank: 1 }, { rank: 4 }] });
    expect(project.read("gguf/rank-4/README.md")).toContain("llama-cli -m base.gguf --lora adapter.gguf");
    const shown = await qdylora(["inspect", project.path("held.gguf")]);
    expect(shown.out).toContain("model.embed_tokens.weight");
  });

  test("a GGUF file is a base like any other", async () => {
    const { code: converted } = await qdylora([
      ...["convert", project.path("model"), "--output", project.path("base.gguf"), "--backend", "reference"],
    ]);
    expect(converted).toBe(0);
    const flags = trainFlags("from-gguf").map((flag) =>
      flag === project.path("model") ? project.path("base.gguf") : flag,
    );
    const { code, err } = await qdylora(["train", ...flags, "--steps", "2", "--checkpoint-every", "0"]);
    expect(code, err).toBe(0);
    const manifest = JSON.parse(project.read("from-gguf/qdylora.json"));
    expect(manifest.base).toMatchObject({ name: "base.gguf", format: "nf4" });
    const copy = await qdylora([
      ...["quantize", project.path("base.gguf"), "--output", project.path("gguf-nf4"), "--backend", "reference"],
    ]);
    expect(copy.code, copy.err).toBe(0);
    expect(project.exists("gguf-nf4/tokenizer.json")).toBe(true);
  });

  test("writes a report where it is told to", async () => {
    const { code } = await qdylora([
      "eval",
      project.path("run"),
      "--data",
      project.path("test.jsonl"),
      "--model",
      project.path("model"),
      "--backend",
      "reference",
      "--limit",
      "2",
      "--report",
      project.path("out/test.html"),
    ]);
    expect(code).toBe(0);
    expect(project.read("out/test.html")).toContain("<!doctype html>");
  });
});

describe("generate and chat", () => {
  test("text for people and JSON say the same", async () => {
    const flags = [
      "generate",
      project.path("run"),
      "--model",
      project.path("model"),
      "--backend",
      "reference",
      "--rank",
      "2",
      "--prompt",
      "say tap:",
      "--max-new-tokens",
      "5",
    ];
    const plain = await qdylora(flags);
    const data = json((await qdylora([...flags, "--json"])).out);
    expect(plain.out).toBe(`${data.text}\n`);
    expect(data).toMatchObject({ rank: 2 });
  });

  test("a chat keeps its conversation, and /new starts over", async () => {
    const flags = [
      "chat",
      project.path("run"),
      "--model",
      project.path("model"),
      "--backend",
      "reference",
      "--max-new-tokens",
      "2",
    ];
    const { code, out } = await qdylora([...flags, "--json"], { input: ["hi", "/new", "hi", ""] });
    expect(code).toBe(0);
    const answers = out
      .split("\n")
      .filter((line) => line.startsWith('{"user"'))
      .map((line) => json(line).assistant);
    expect(answers).toHaveLength(2);
    expect(answers[0]).toBe(answers[1]);
  });
});

describe("ranks and stops", () => {
  const flags = () => [...["--model", project.path("model"), "--backend", "reference", "--max-new-tokens", "8"]];
  const answers = (out: string) =>
    out
      .split("\n")
      .filter((line) => line.startsWith('{"user"'))
      .map((line) => JSON.parse(line) as { assistant: string; rank: number });

  test("/rank changes the rank within a chat to what a chat at that rank says; a wrong one is told and changes nothing", async () => {
    const chat = async (rank: string, input: readonly string[]) =>
      qdylora(["chat", project.path("run"), "--rank", rank, "--temperature", "2", ...flags(), "--json"], { input });
    const mixed = await chat("4", [
      "say dog:",
      "/rank 1",
      "/new",
      "say dog:",
      "/rank 9",
      "/rank",
      "/new",
      "say dog:",
      "/rank 0",
      "/new",
      "say dog:",
    ]);
    expect(mixed.code, mixed.err).toBe(0);
    const got = answers(mixed.out);
    expect(got.map(({ rank }) => rank)).toEqual([4, 1, 1, 0]);
    for (const [i, rank] of [4, 1, 1, 0].entries()) {
      const [alone] = answers((await chat(String(rank), ["say dog:"])).out);
      expect(got[i]!.assistant).toBe(alone!.assistant);
    }
    expect(new Set(got.map(({ assistant }) => assistant)).size).toBeGreaterThan(1);
    expect(mixed.err).toContain("rank is 9, expected a whole number from 1 to 4");
    expect(mixed.err).toContain("rank is NaN");
  });

  test("a stop string ends the answer before it, and the reason is told", async () => {
    const say = async (...more: string[]) => {
      const argv = ["generate", project.path("run"), ...flags(), "--prompt", "say dog:", ...more, "--json"];
      return json((await qdylora(argv)).out) as unknown as { text: string; stopped: string };
    };
    const whole = await say();
    const cut = whole.text.slice(2, 4);
    expect(cut).toHaveLength(2);
    const at = whole.text.indexOf(cut);
    expect(await say("--stop", JSON.stringify(["nowhere", cut]))).toMatchObject({
      text: whole.text.slice(0, at),
      stopped: "stop",
    });
    expect(await say("--stop", "nowhere")).toEqual(whole);
    expect(await say("--temperature", "1.5", "--min-p", "1")).toEqual(whole);
    expect((await say("--repetition-penalty", "50")).text).not.toBe(whole.text);
  });
});

describe("estimate, inspect, doctor", () => {
  test("the estimate is what training plans", async () => {
    const { out } = await qdylora([
      "estimate",
      ...trainFlags("x").filter(
        (_, i, all) =>
          !/^--(output|checkpoint-every|metric)$/.test(all[i]!) &&
          !/^--(output|checkpoint-every|metric)$/.test(all[i - 1] ?? ""),
      ),
      "--json",
    ]);
    const planned = JSON.parse(project.read("run/events.jsonl").split("\n")[0]!) as { planBytes: number };
    expect(json(out)).toMatchObject({ arenaBytes: planned.planBytes, layers: { keep: 1 } });
    const { baseBytes, totalBytes, hostBytes, loadingBytes, peakBytes } = json(out) as Record<string, number>;
    expect(peakBytes).toBe(hostBytes! + Math.max(totalBytes!, baseBytes! + loadingBytes!));
    expect(hostBytes).toBeGreaterThan(30e6);
  });

  test("data is shown token by token with its mask", async () => {
    const { out } = await qdylora([
      "inspect",
      "--data",
      project.path("train.jsonl"),
      "--model",
      project.path("model"),
      "--limit",
      "1",
    ]);
    expect(out).toContain("12 samples of 12 rows");
    expect(out).toMatch(/\* .*"<\/s>"/);
  });

  test.each(["model", "run", "model/model.safetensors"])("%s is shown", async (name) => {
    const { code, out } = await qdylora(["inspect", project.path(name)]);
    expect(code).toBe(0);
    expect(out.length).toBeGreaterThan(100);
  });

  test("doctor finds this machine fit", async () => {
    const { code, out } = await qdylora(["doctor"]);
    expect(out).toContain("backend cpu");
    expect(code).toBe(0);
  });
});
