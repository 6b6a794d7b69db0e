import { createHash } from "node:crypto";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DecodeStream } from "../../src/tokenizer/decode-stream.ts";
import { readTokenizer } from "../../src/tokenizer/read.ts";
import { Sha256, sha256Text } from "../../src/tokenizer/sha256.ts";
import { checkVocabulary, loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { expected, KINDS, tiny, tokenizerJson } from "./tiny.ts";

fc.configureGlobal({ seed: 20261124 });

const coded = (code: string) => expect.objectContaining({ code });
const text = fc.string({ unit: "binary", maxLength: 40 });

describe.each(KINDS)("%s tokenizer", (kind) => {
  const tokenizer = tiny(kind);

  test("gives the ids and texts of the Rust library", () => {
    expect(expected.texts.map((t) => [...tokenizer.encode(t, { addSpecial: true })])).toEqual(
      // The Rust library puts BOS before a text that already begins with it; here it is never put twice.
      expected.encoded[kind].map((ids) => (ids[0] === ids[1] && ids[0] === tokenizer.bosId ? ids.slice(1) : ids)),
    );
    const decoded = expected.encoded[kind].map((ids) => tokenizer.decode(ids, { skipSpecial: false }));
    expect(decoded).toEqual(expected.decoded[kind]);
  });

  test("decodes what it encoded, one by one or all at once", () => {
    fc.assert(
      fc.property(text, (t) => {
        const ids = tokenizer.encode(t, { addSpecial: true });
        const all = tokenizer.decode(ids, { skipSpecial: true });
        if (kind === "byte-level") expect(all).toBe(t);
        const stream = new DecodeStream(tokenizer);
        const pieces = [...ids].map((id) => stream.push(id));
        expect(pieces.join("") + stream.end()).toBe(all);
        expect(stream.end()).toBe("");
      }),
      { numRuns: 200 },
    );
  });

  test("a continuation puts nothing between the texts", () => {
    const word = fc.constantFrom("The", " cat", "2", "é", "日本", ".", "  two", " HH AW");
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 4 }), word, (words, completion) => {
        const prompt = words.join("");
        const a = tokenizer.encode(prompt, { addSpecial: true });
        const b = tokenizer.encode(completion, { addSpecial: false, continuation: true });
        expect(tokenizer.decode([...a, ...b], { skipSpecial: true })).toBe(prompt + completion);
      }),
    );
  });
});

describe("BOS", () => {
  test("opens a sequence once, and only where asked for", () => {
    const tokenizer = tiny("sentencepiece");
    const count = (t: string, addSpecial: boolean) =>
      tokenizer.encode(t, { addSpecial }).filter((id) => id === tokenizer.bosId).length;
    expect([tokenizer.addsBos, tokenizer.token(tokenizer.bosId!)]).toEqual([true, "<s>"]);
    expect([count("cat", true), count("<s>cat", true), count("", true), count("cat", false)]).toEqual([1, 1, 1, 0]);
  });

  test("is left out where the tokenizer's class builds its own post-processor without it", () => {
    const config = { tokenizer_class: "LlamaTokenizerFast", add_bos_token: false };
    expect(tiny("sentencepiece", undefined, config).addsBos).toBe(false);
    expect(tiny("sentencepiece", undefined, { ...config, tokenizer_class: "Other" }).addsBos).toBe(true);
    expect(tiny("byte-level", undefined, { bos_token: "<s>", add_bos_token: true }).addsBos).toBe(false);
  });
});

describe("end tokens", () => {
  test("come from tokenizer_config first, then generation_config", () => {
    const parts = { tokenizerJson: tokenizerJson("byte-level"), tokenizerConfig: { eos_token: { content: "</s>" } } };
    const eos = tiny().eosIds[0]!;
    expect(loadTokenizer({ ...parts, generationConfig: { eos_token_id: [3, eos] } }).eosIds).toEqual([eos, 3]);
    expect(loadTokenizer({ ...parts, generationConfig: { eos_token_id: 2 } }).eosIds).toEqual([eos, 2]);
    expect(loadTokenizer({ tokenizerJson: parts.tokenizerJson }).eosIds).toEqual([]);
  });
});

describe("streaming", () => {
  test("emits a character when its last byte is there, not before", () => {
    const tokenizer = tiny("sentencepiece");
    const ids = tokenizer.encode("日本", { addSpecial: false, continuation: true });
    const stream = new DecodeStream(tokenizer, tokenizer.encode("x", { addSpecial: false }));
    expect([...ids].map((id) => stream.push(id))).toEqual(["", "", "日", "", "", "本"]);
  });

  test("keeps the space between the prompt and the first word", () => {
    const tokenizer = tiny("sentencepiece");
    const ids = [...tokenizer.encode(" cat", { addSpecial: false, continuation: true })];
    const after = new DecodeStream(tokenizer, tokenizer.encode("The", { addSpecial: true }));
    expect(ids.map((id) => after.push(id)).join("")).toBe(" cat");
  });

  test("stays right over texts longer than its window", () => {
    const tokenizer = tiny("sentencepiece");
    const long = "The cat 日本 sat — on the 👍🏽 mat. ".repeat(20).trim();
    const ids = [...tokenizer.encode(long, { addSpecial: true })];
    const stream = new DecodeStream(tokenizer);
    expect(ids.map((id) => stream.push(id)).join("") + stream.end()).toBe(long);
  });

  test("shows a broken character as U+FFFD once it is known to be broken", () => {
    const tokenizer = tiny("byte-level");
    const [first] = tokenizer.encode("日", { addSpecial: false });
    const stream = new DecodeStream(tokenizer);
    const a = tokenizer.encode("a", { addSpecial: false })[0]!;
    expect([stream.push(first!), stream.push(a), stream.push(first!), stream.end()]).toEqual([
      "",
      "\uFFFDa",
      "",
      "\uFFFD",
    ]);
  });
});

describe("vocabulary", () => {
  test("may be smaller than the embedding, never larger", () => {
    const tokenizer = tiny();
    expect(tokenizer.size).toBe(340);
    expect(() => checkVocabulary(tokenizer, 340)).not.toThrow();
    expect(() => checkVocabulary(tokenizer, 512)).not.toThrow();
    expect(() => checkVocabulary(tokenizer, 339)).toThrow(coded("VOCABULARY_MISMATCH"));
  });

  test("counts added tokens and the end ids of generation_config", () => {
    const json = tokenizerJson("byte-level");
    (json.added_tokens as unknown[]).push({ id: 400, content: "<extra>", special: true });
    expect(loadTokenizer({ tokenizerJson: json }).size).toBe(401);
    const late = loadTokenizer({ tokenizerJson: tokenizerJson("byte-level"), generationConfig: { eos_token_id: 999 } });
    expect(() => checkVocabulary(late, 512)).toThrow(coded("VOCABULARY_MISMATCH"));
  });

  test("may hold a token called __proto__", () => {
    const json = tokenizerJson("byte-level");
    const model = json.model as { vocab: object };
    model.vocab = JSON.parse(`{"__proto__": 340, ${JSON.stringify(model.vocab).slice(1)}`);
    const tokenizer = loadTokenizer({ tokenizerJson: json });
    expect([tokenizer.size, tokenizer.token(340)]).toEqual([341, "__proto__"]);
  });

  test("ids beyond it decode to nothing and are named by their number", () => {
    expect(tiny().decode([339, 5000], { skipSpecial: false })).toBe(tiny().token(339));
    expect(tiny().token(5000)).toBe("<id 5000>");
  });
});

describe("broken parts are refused", () => {
  const json = tokenizerJson("byte-level");
  const model = json.model as Record<string, unknown>;
  test.each<[string, Record<string, unknown>]>([
    ["no object", { tokenizerJson: [] }],
    ["no model", { tokenizerJson: {} }],
    ["a vocabulary that is none", { tokenizerJson: { ...json, model: { ...model, vocab: "abc" } } }],
    ["an id that is no number", { tokenizerJson: { ...json, model: { ...model, vocab: { a: "1" } } } }],
    ["no merges", { tokenizerJson: { ...json, model: { ...model, merges: undefined } } }],
    ["a negative id", { tokenizerJson: { ...json, model: { ...model, vocab: { a: -1 } } } }],
    ["an unknown pre-tokenizer", { tokenizerJson: { ...json, pre_tokenizer: { type: "Nonsense" } } }],
    ["an end token outside the vocabulary", { tokenizerJson: json, tokenizerConfig: { eos_token: "<none>" } }],
    ["an end id that is none", { tokenizerJson: json, generationConfig: { eos_token_id: "2" } }],
    ["a template that is no text", { tokenizerJson: json, tokenizerConfig: { chat_template: 7 } }],
  ])("%s", (_, parts) => {
    expect(() => loadTokenizer(parts as never)).toThrow(coded("TOKENIZER_INVALID"));
  });

  test("text outside a vocabulary without unknown-token", () => {
    const words = { type: "WordLevel", vocab: { a: 0 }, continuing_subword_prefix: "##", unk_token: null };
    const small = {
      ...json,
      added_tokens: [],
      model: words,
      decoder: null,
      pre_tokenizer: { type: "WhitespaceSplit" },
    };
    const tokenizer = loadTokenizer({ tokenizerJson: small });
    expect([...tokenizer.encode("a a", { addSpecial: false })]).toEqual([0, 0]);
    expect(() => tokenizer.encode("a b", { addSpecial: false })).toThrow(coded("TOKENIZER_INVALID"));
  });
});

describe("readTokenizer", () => {
  const folder = (files: Record<string, string>) => ({
    path: "model",
    exists: (name: string) => Promise.resolve(name in files),
    read: (name: string) => Promise.resolve(new TextEncoder().encode(files[name])),
  });
  const json = JSON.stringify(tokenizerJson("byte-level"));

  test("reads what is there; chat_template.jinja wins", async () => {
    const config = JSON.stringify({ eos_token: "</s>", chat_template: "old" });
    const alone = await readTokenizer(folder({ "tokenizer.json": json, "tokenizer_config.json": config }));
    expect([alone.template, alone.eosIds.length]).toEqual(["old", 1]);
    const files = { "tokenizer.json": json, "tokenizer_config.json": config, "chat_template.jinja": "new" };
    const both = await readTokenizer(folder(files));
    expect([both.template, both.templateSha256]).toEqual(["new", createHash("sha256").update("new").digest("hex")]);
  });

  test("says which file is missing or broken", async () => {
    await expect(readTokenizer(folder({}))).rejects.toThrow(coded("TOKENIZER_INVALID"));
    await expect(readTokenizer(folder({ "tokenizer.json": "{" }))).rejects.toThrow("model/tokenizer.json");
  });
});

describe("chat templates", () => {
  test.each(Object.keys(expected.templates))("%s renders as Python's jinja2 does", (name) => {
    const tokenizer = tiny("sentencepiece", expected.templates[name]);
    const rendered = [0, 1].flatMap((first) =>
      [2, 3, 4, 5].flatMap((last) =>
        [false, true].map((generationPrompt) =>
          tokenizer.renderChat(expected.chat.slice(first, last), { generationPrompt }),
        ),
      ),
    );
    expect(rendered).toEqual(expected.rendered[name]);
  });

  test("one of several templates is the one called default", () => {
    const named = (name: string) => ({ name, template: name });
    const config = { chat_template: [named("tool_use"), named("default")] };
    expect(tiny("byte-level", undefined, config).template).toBe("default");
    expect(tiny("byte-level", undefined, { chat_template: [named("tool_use")] }).template).toBeNull();
  });

  test("a template that asks for the date gets the same one every day", () => {
    const render = (template: string) => tiny("byte-level", template).renderChat([], { generationPrompt: false });
    expect(render("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}")).toBe("26 Jul 2024");
    expect(render("{{ strftime_now('%Y-%m-%d %H:%M 100%%') }}")).toBe("2024-07-26 00:00 100%");
  });

  test("errors have codes", () => {
    const messages = [{ role: "assistant", content: "a" }];
    expect(() => tiny().renderChat(messages, { generationPrompt: true })).toThrow(coded("TEMPLATE_MISSING"));
    expect(() => tiny("byte-level", "{% for %}")).toThrow(coded("TEMPLATE_FAILED"));
    const inst = tiny("sentencepiece", expected.templates.inst);
    expect(() => inst.renderChat(messages, { generationPrompt: false })).toThrow(/must alternate/);
  });
});

test("SHA-256 agrees with Node's, however the bytes arrive", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }), (pieces) => {
      const ours = new Sha256();
      const theirs = createHash("sha256");
      for (const piece of pieces) {
        ours.update(piece);
        theirs.update(piece);
      }
      expect(ours.hex()).toBe(theirs.digest("hex"));
    }),
    { numRuns: 300 },
  );
  expect(sha256Text("é")).toBe(createHash("sha256").update("é").digest("hex"));
});
