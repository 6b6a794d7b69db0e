import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { areWhole, type Columns } from "../../src/data/columns.ts";
import { jsonErrorColumn } from "../../src/data/json-error.ts";
import { readLines } from "../../src/data/lines.ts";
import { parseLine, type RowResult, readRows } from "../../src/data/rows.ts";
import { type ByteSource, memorySource } from "../../src/formats/byte-source.ts";

fc.configureGlobal({ seed: 20261124 });

const utf8 = (text: string) => new TextEncoder().encode(text);

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

async function rows(content: string | Uint8Array): Promise<RowResult[]> {
  const source = memorySource(typeof content === "string" ? utf8(content) : content, "d.jsonl");
  return collect(readRows(source));
}

describe("lines", () => {
  const line = fc.string({ unit: "grapheme", maxLength: 12 }).filter((t) => !/[\r\n\uFEFF]/.test(t));

  test("come out as they went in, whatever ends them", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(line, fc.constantFrom("\n", "\r\n")), { maxLength: 8 }),
        line,
        fc.boolean(),
        async (ended, last, bom) => {
          const text = (bom ? "\uFEFF" : "") + ended.map(([l, end]) => l + end).join("") + last;
          const read = await collect(readLines(memorySource(utf8(text))));
          const expected = [...ended.map(([l]) => l), ...(last === "" ? [] : [last])];
          // A byte-order mark alone is a line without content.
          if (bom && expected.length === 0) expected.push("");
          expect(read.map((l) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(l.bytes))).toEqual(expected);
          expect(read.map((l) => l.line)).toEqual(expected.map((_, i) => i + 1));
        },
      ),
    );
  });

  test("may be longer than one read, and reads stay small", async () => {
    const long = "é".repeat(1_300_000);
    const bytes = utf8(`a\n${long}\nb`);
    let largest = 0;
    const source: ByteSource = {
      ...memorySource(bytes),
      read: async (offset, length) => {
        largest = Math.max(largest, length);
        return bytes.subarray(offset, offset + length);
      },
    };
    const read = await collect(readLines(source));
    expect(read.map((l) => [l.line, l.bytes.length])).toEqual([
      [1, 1],
      [2, 2_600_000],
      [3, 1],
    ]);
    expect(new TextDecoder().decode(read[1]!.bytes) === long).toBe(true);
    expect(largest).toBeLessThanOrEqual(1 << 20);
  });
});

describe("rows", () => {
  test("of the three kinds, further keys ignored or passed to the template", async () => {
    const content = [
      '\uFEFF{"text": "a", "source": "x"}\r',
      "",
      '{"completion": "c", "prompt": ""}',
      '   {"messages": [{"role": "user", "content": "", "name": "n"}], "id": 3}',
    ].join("\n");
    expect(await rows(content)).toEqual([
      { file: "d.jsonl", line: 1, row: { kind: "text", text: "a" } },
      { file: "d.jsonl", line: 3, row: { kind: "completion", prompt: "", completion: "c" } },
      { file: "d.jsonl", line: 4, row: { kind: "chat", messages: [{ role: "user", content: "", name: "n" }] } },
    ]);
  });

  test.each<[string, string, RegExp, number?]>([
    ["cut off", '{"text": "a"', /not JSON: the line ends too early/, 13],
    ["two values", '{"text": "a"} {"text": "b"}', /not JSON: unexpected "\{"/, 15],
    ["an unquoted key", "{text: 1}", /unexpected "t"/, 2],
    ["an array", '[{"text": "a"}]', /is an array, expected an object such as \{"text"/],
    ["a string", '"text"', /is a string, expected an object/],
    ["unknown keys", '{"instruction": "i", "output": "o"}', /"instruction", "output", expected \{"text": …\}/],
    ["no keys", "{}", /has the keys \(none\)/],
    ["a prompt alone", '{"prompt": "p"}', /has the keys "prompt"/],
    ["two kinds", '{"text": "a", "messages": []}', /fit text and chat: keep one/],
    ["an empty text", '{"text": ""}', /text: is empty/],
    ["an empty completion", '{"prompt": "p", "completion": ""}', /completion: is empty/],
    ["a number as text", '{"text": 3}', /text: .*string/],
    ["no messages", '{"messages": []}', /messages: is empty/],
    [
      "content parts",
      '{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
      /messages\.0\.content: .*string/,
    ],
    ["no role", '{"messages": [{"from": "human", "value": "x"}]}', /messages\.0\.role/],
  ])("broken: %s", async (_, line, reason, column) => {
    const results = await rows(`{"text": "fine"}\n${line}\n{"text": "fine"}`);
    expect(results.map((r) => "row" in r)).toEqual([true, false, true]);
    const fault = results[1]!;
    expect(fault).toMatchObject({ file: "d.jsonl", line: 2, reason: expect.stringMatching(reason) });
    expect("column" in fault ? fault.column : undefined).toBe(column);
  });

  test("keys of other names are read by columns", () => {
    const line = utf8('{"question": "q", "answer": "a", "rules": "r", "text": "t"}');
    const rowWith = (columns: Columns) => parseLine(line, columns);
    const completion = { kind: "completion", prompt: "q", completion: "a" };
    expect(rowWith({ prompt: "question", completion: "answer" })).toEqual({ row: completion });
    expect(rowWith({ text: "answer" })).toEqual({ row: { kind: "text", text: "a" } });
    const said = [
      { role: "user", content: "q" },
      { role: "assistant", content: "a" },
    ];
    expect(rowWith({ user: "question", assistant: "answer" })).toEqual({ row: { kind: "chat", messages: said } });
    expect(rowWith({ user: "question", assistant: "answer", system: "rules" })).toEqual({
      row: { kind: "chat", messages: [{ role: "system", content: "r" }, ...said] },
    });
    expect(rowWith({ prompt: "question", completion: "reply" })).toMatchObject({
      reason: expect.stringMatching(/"question", "answer".*expected "reply" because it is the completion/),
    });
    expect(parseLine(utf8('{"q": 3}'), { text: "q" })).toMatchObject({
      reason: expect.stringMatching(/text: .*string/),
    });
  });

  test.each<[Columns, boolean]>([
    [{ text: "a" }, true],
    [{ user: "a", assistant: "b" }, true],
    [{ prompt: "a" }, false],
    [{ system: "a", assistant: "b" }, false],
    [{ text: "a", prompt: "b", completion: "c" }, false],
    [{}, false],
  ])("columns %o make a row: %s", (columns, whole) => {
    expect(areWhole(columns)).toBe(whole);
  });

  test("names that are common elsewhere are recognised in the message", () => {
    expect(parseLine(utf8('{"question": "q", "answer": "a"}'))).toMatchObject({
      reason: expect.stringContaining("or --columns prompt=question,completion=answer"),
    });
  });

  test("bytes that are no UTF-8 are named with their column", async () => {
    const bytes = Uint8Array.from([...utf8('{"text": "é'), 0xff, ...utf8('"}')]);
    expect(await rows(bytes)).toEqual([{ file: "d.jsonl", line: 1, reason: "not UTF-8", column: 12 }]);
  });

  test("other kinds of file are refused by name", async () => {
    for (const name of ["a.csv", "a.parquet", "a.jsonl.gz", "A.TXT"]) {
      const read = collect(readRows(memorySource(utf8("x"), name)));
      await expect(read).rejects.toThrow(expect.objectContaining({ code: "DATA_UNSUPPORTED" }));
    }
  });

  test("nothing breaks the reader itself", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), async (bytes) => {
        for (const result of await rows(bytes)) expect("row" in result || result.reason.length > 0).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("__proto__ in a row stays a key like any other", () => {
    const parsed = parseLine(utf8('{"__proto__": {"text": "x"}}'));
    expect(parsed).toMatchObject({ reason: expect.stringContaining("__proto__") });
  });
});

describe("the column of a JSON error", () => {
  test("is where the text stops being the beginning of a JSON text", () => {
    const broken = fc
      .tuple(fc.json(), fc.nat(), fc.constantFrom("", "{", "}", "]", ",", ":", '"', "x", "0", "\\", "\u0001"))
      .map(([json, at, insert]) => {
        const i = at % (json.length + 1);
        return insert === "" ? json.slice(0, i) : json.slice(0, i) + insert + json.slice(i);
      })
      .filter((text) => {
        try {
          JSON.parse(text);
          return false;
        } catch {
          return true;
        }
      });
    fc.assert(
      fc.property(broken, (text) => {
        const column = jsonErrorColumn(text);
        expect(column).toBeGreaterThanOrEqual(1);
        expect(column).toBeLessThanOrEqual(text.length + 1);
        // Engines that name a position agree, but for tokens that break inside (a string, a number), which begin earlier.
        try {
          JSON.parse(text);
        } catch (error) {
          const position = /at position (\d+)/.exec((error as Error).message)?.[1];
          if (position !== undefined) expect(column).toBeLessThanOrEqual(Number(position) + 1);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test("for valid JSON is one past the end", () => {
    fc.assert(
      fc.property(fc.json(), (json) => {
        expect(jsonErrorColumn(json)).toBe(json.length + 1);
      }),
      { numRuns: 500 },
    );
  });
});
