import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { assistantSpans, chatStopIds } from "../../src/data/chat.ts";
import { completionTokens, type Example, exampleOf, type LossOn, promptTokens } from "../../src/data/examples.ts";
import type { Row } from "../../src/data/rows.ts";
import type { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { expected, KINDS, tiny } from "../tokenizer/tiny.ts";

fc.configureGlobal({ seed: 20261124 });

const CHATML = expected.templates.chatml!;
const INST = expected.templates.inst!;
const DEFAULT_SYSTEM = expected.templates["default-system"]!;

function example(row: Row, tokenizer: Tokenizer, lossOn: LossOn = "completion"): Example {
  const made = exampleOf(row, tokenizer, lossOn);
  if ("reason" in made) throw new Error(made.reason);
  return made;
}

/** The sample's text with the supervised runs in ⟦…⟧. */
function marked(made: Example, tokenizer: Tokenizer): string {
  const runs: string[] = [];
  let from = 0;
  for (let i = 1; i <= made.tokens.length; i++) {
    if (i < made.tokens.length && made.supervised[i] === made.supervised[from]) continue;
    const text = Array.from(made.tokens.subarray(from, i), (id) => tokenizer.token(id)).join("");
    runs.push(made.supervised[from] === 1 ? `⟦${text}⟧` : text);
    from = i;
  }
  return runs.join("");
}

const word = fc.constantFrom("The", " cat", "2", "é", "日", ".", "  two", "\n", " HH", "</s>");
const texts = fc.array(word, { minLength: 1, maxLength: 5 }).map((words) => words.join(""));

describe.each(KINDS)("with the %s tokenizer", (kind) => {
  const tokenizer = tiny(kind);

  test("a text is learned throughout, its end too", () => {
    const made = example({ kind: "text", text: "The cat" }, tokenizer);
    const open = kind === "sentencepiece" ? "<s>" : "";
    expect(tokenizer.decode(made.tokens, { skipSpecial: false }).replace("<s> ", "<s>")).toBe(`${open}The cat</s>`);
    expect([...made.supervised]).toEqual([0, ...Array(made.tokens.length - 1).fill(1)]);
  });

  test("a completion is learned with its end, its prompt is not", () => {
    const row: Row = { kind: "completion", prompt: "Two plus two is", completion: " four." };
    const space = kind === "sentencepiece" ? "<s> " : "";
    expect(marked(example(row, tokenizer), tokenizer)).toBe(`${space}Two plus two is⟦ four.</s>⟧`);
    const all = example(row, tokenizer, "all");
    expect([...all.supervised]).toEqual([0, ...Array(all.tokens.length - 1).fill(1)]);
    expect(all.tokens).toEqual(example(row, tokenizer).tokens);
  });

  test("the boundary: a sample is the generation prompt's ids, then the answer's, whatever the texts", () => {
    fc.assert(
      fc.property(texts, texts, (prompt, completion) => {
        const made = example({ kind: "completion", prompt, completion }, tokenizer);
        const before = promptTokens(tokenizer, prompt);
        const answer = completionTokens(tokenizer, completion);
        expect([...made.tokens]).toEqual([...before, ...answer]);
        expect(made.supervised.indexOf(1)).toBe(Math.max(1, before.length));
        expect(answer.at(-1)).toBe(tokenizer.eosIds[0]);
        expect(answer.at(-2) === tokenizer.eosIds[0]).toBe(completion.endsWith("</s></s>"));
        expect(made.supervised.at(-1)).toBe(1);
      }),
    );
  });

  test("a token never straddles the boundary, even if the joined text would have one there", () => {
    const joined = tokenizer.encode("The cat", { addSpecial: true });
    const made = example({ kind: "completion", prompt: "The ca", completion: "t" }, tokenizer);
    expect([...made.tokens.subarray(0, joined.length)]).not.toEqual([...joined]);
    expect(tokenizer.decode(made.tokens, { skipSpecial: true })).toBe("The cat");
  });

  test("an empty prompt: without BOS the first token of the answer has nothing to predict it", () => {
    const made = example({ kind: "completion", prompt: "", completion: "cat" }, tokenizer);
    expect([...made.supervised]).toEqual([0, ...Array(made.tokens.length - 1).fill(1)]);
    expect(made.tokens[0] === tokenizer.bosId).toBe(kind === "sentencepiece");
  });
});

test("BOS is never put twice", () => {
  const tokenizer = tiny("sentencepiece", INST);
  const bosCount = (row: Row) => example(row, tokenizer).tokens.filter((id) => id === tokenizer.bosId).length;
  expect(bosCount({ kind: "text", text: "<s>cat" })).toBe(1);
  expect(bosCount({ kind: "completion", prompt: "<s>cat", completion: "a" })).toBe(1);
  const messages = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ];
  expect(bosCount({ kind: "chat", messages })).toBe(1);
  expect(bosCount({ kind: "completion", prompt: "cat", completion: "a" })).toBe(1);
});

test("without an end-of-text token samples cannot be ended", () => {
  const tokenizer = tiny("byte-level", undefined, { eos_token: null });
  const make = () => exampleOf({ kind: "text", text: "a" }, tokenizer, "completion");
  expect(make).toThrow(expect.objectContaining({ code: "TOKENIZER_INVALID" }));
});

describe("chat", () => {
  const system = { role: "system", content: "You are a helpful assistant." };
  const turn = [
    { role: "user", content: "What is two plus two?" },
    { role: "assistant", content: "Four." },
  ];
  const two = [...turn, { role: "user", content: "Then three?" }, { role: "assistant", content: "Five." }];
  const chat = (messages: typeof turn): Row => ({ kind: "chat", messages });

  test("ChatML: the answer and its end are learned, the line feed after it is not", () => {
    const tokenizer = tiny("byte-level", CHATML);
    expect(marked(example(chat([system, ...two]), tokenizer), tokenizer)).toBe(
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is two plus two?<|im_end|>\n" +
        "<|im_start|>assistant\n⟦Four.<|im_end|>⟧\n<|im_start|>user\nThen three?<|im_end|>\n" +
        "<|im_start|>assistant\n⟦Five.<|im_end|>⟧\n",
    );
    expect(chatStopIds(tokenizer).map((id) => tokenizer.token(id))).toEqual(["</s>", "<|im_end|>"]);
  });

  test("a template that puts its own system message first", () => {
    const tokenizer = tiny("byte-level", DEFAULT_SYSTEM);
    expect(marked(example(chat(turn), tokenizer), tokenizer)).toBe(
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is two plus two?<|im_end|>\n" +
        "<|im_start|>assistant\n⟦Four.<|im_end|>⟧\n",
    );
    const own = marked(example(chat([{ ...system, content: "Own." }, ...turn]), tokenizer), tokenizer);
    expect(own).toContain("<|im_start|>system\nOwn.<|im_end|>");
    expect(own).not.toContain("helpful");
  });

  test("Llama-2 style: BOS in the template, no opening of the assistant's turn, EOS as its end", () => {
    const tokenizer = tiny("sentencepiece", INST);
    const text = marked(example(chat([system, ...two]), tokenizer), tokenizer);
    expect(text).toContain("[/INST]⟦ Four. </s>⟧<s>");
    expect(text.endsWith("[/INST]⟦ Five. </s>⟧")).toBe(true);
    expect(text.match(/⟦/g)).toHaveLength(2);
    expect(chatStopIds(tokenizer)).toEqual(tokenizer.eosIds);
  });

  test.each([CHATML, INST, DEFAULT_SYSTEM])(
    "generation sees the training ids before each answer (template %#)",
    (template) => {
      const content = fc.array(fc.constantFrom("The", " cat", "é", "日", "\n", "x"), { minLength: 1, maxLength: 4 });
      const conversation = fc.tuple(fc.boolean(), fc.array(fc.tuple(content, content), { minLength: 1, maxLength: 3 }));
      const tokenizer = tiny("sentencepiece", template);
      fc.assert(
        fc.property(conversation, ([withSystem, turns]) => {
          const messages = [
            ...(withSystem ? [system] : []),
            ...turns.flatMap(([user, assistant]) => [
              { role: "user", content: user.join("") },
              { role: "assistant", content: assistant.join("") },
            ]),
          ];
          const made = assistantSpans(tokenizer, messages);
          if ("reason" in made) throw new Error(made.reason);
          const answers = messages.flatMap((message, i) => (message.role === "assistant" ? [i] : []));
          expect(made.spans).toHaveLength(answers.length);
          for (const [k, i] of answers.entries()) {
            const [from, to] = made.spans[k]!;
            expect([...promptTokens(tokenizer, messages.slice(0, i))]).toEqual([...made.tokens.subarray(0, from)]);
            const answer = tokenizer.decode(made.tokens.subarray(from, to), { skipSpecial: true });
            expect(answer.trim()).toBe(messages[i]!.content.trim());
            expect(tokenizer.isSpecial(made.tokens[to - 1]!)).toBe(true);
          }
        }),
        { numRuns: 60 },
      );
    },
  );

  test("all: every token but the first", () => {
    const made = example(chat(turn), tiny("byte-level", CHATML), "all");
    expect([...made.supervised]).toEqual([0, ...Array(made.tokens.length - 1).fill(1)]);
  });

  test("a template without an end mark: the span ends where the message ends", () => {
    const plain =
      "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    const tokenizer = tiny("byte-level", plain);
    const made = example(chat(turn), tokenizer);
    expect(marked(made, tokenizer)).toBe("user: What is two plus two?\nassistant:⟦ Four.\n⟧");
    expect(chatStopIds(tokenizer)).toEqual(tokenizer.eosIds);
  });

  test("a template that changes earlier messages afterwards is reported, not masked wrongly", () => {
    const rewriting =
      "{% for m in messages %}{{ m.role + (' (last): ' if loop.last else ': ') + m.content + '</s>' }}{% endfor %}";
    const made = exampleOf(chat(two), tiny("byte-level", rewriting), "completion");
    expect(made).toEqual({ reason: expect.stringMatching(/^messages\.1: .*from token \d+ on/) });
    // Here the prompts agree, but an answer ends otherwise once another turn follows.
    const ending =
      "{% for m in messages %}{{ m.role + ': ' + m.content + ('</s>' if loop.last or m.role == 'user' else ';') }}{% endfor %}";
    const cut = exampleOf(chat(two), tiny("byte-level", ending), "completion");
    expect(cut).toEqual({ reason: expect.stringMatching(/^messages\.1: /) });
  });

  test("a conversation that the template refuses is the row's fault; a missing template is not", () => {
    const wrong = chat([turn[1]!, turn[0]!]);
    expect(exampleOf(wrong, tiny("sentencepiece", INST), "completion")).toEqual({
      reason: expect.stringContaining("must alternate"),
    });
    expect(() => exampleOf(wrong, tiny(), "completion")).toThrow(expect.objectContaining({ code: "TEMPLATE_MISSING" }));
  });
});
