import { expect, test } from "vitest";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { sha256InBackground, sha256OfFiles } from "../../src/formats/node-sha256.ts";
import { temporaryFolder, writeTiny } from "../quant/tiny-model.ts";

const text = (value: unknown) => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
const INDEX = "model.safetensors.index.json";

test("single and sharded folders give the same tensors; all stored names are listed", async () => {
  const single = await openCheckpoint(await writeTiny());
  const sharded = await openCheckpoint(await writeTiny({ shards: 4 }));
  expect(single.weightFiles).toEqual(["model.safetensors"]);
  expect(sharded.weightFiles).toHaveLength(4);
  expect([...sharded.tensorNames].sort()).toEqual([...single.tensorNames].sort());
  for (const name of single.tensorNames)
    expect(await sharded.tensor(name).read()).toEqual(await single.tensor(name).read());
  await single.close();
  await sharded.close();
});

test("other prefixes resolve, also for the head", async () => {
  for (const prefix of ["", "language_model.model.", "model.text."]) {
    const checkpoint = await openCheckpoint(await writeTiny({ prefix }));
    expect(checkpoint.find("model.layers.1.mlp.up_proj.weight")).toBe(`${prefix}layers.1.mlp.up_proj.weight`);
    expect(checkpoint.find("lm_head.weight")).toBe("lm_head.weight");
    expect(checkpoint.find("model.layers.9.mlp.up_proj.weight")).toBe(null);
    expect(() => checkpoint.tensor("model.layers.9.x")).toThrow(expect.objectContaining({ code: "TENSOR_MISSING" }));
    await checkpoint.close();
  }
});

test("the identity covers the weight files in name order, and nothing else", async () => {
  const folder = await writeTiny({ shards: 2 });
  const checkpoint = await openCheckpoint(folder);
  const sha = await sha256OfFiles(folder, checkpoint.weightFiles);
  expect(sha).toMatch(/^[0-9a-f]{64}$/);
  await folder.write("config.json", text({}));
  expect(await sha256OfFiles(folder, checkpoint.weightFiles)).toBe(sha);
  expect(await sha256OfFiles(folder, [...checkpoint.weightFiles].reverse())).not.toBe(sha);
  await checkpoint.close();
});

type Break = (folder: Awaited<ReturnType<typeof writeTiny>>) => Promise<void>;
const BROKEN: [string, Break, string, RegExp][] = [
  ["no config", (f) => f.remove("config.json"), "FILE_NOT_FOUND", /config\.json/],
  ["a config that is no JSON", (f) => f.write("config.json", text("{")), "MODEL_CONFIG_INVALID", /not valid JSON/],
  ["a missing shard", (f) => f.remove("model-2-of-3.safetensors"), "FILE_NOT_FOUND", /missing: model-2-of-3/],
  ["no weights", (f) => f.remove(INDEX), "FILE_NOT_FOUND", /neither model\.safetensors nor/],
  ["an index that is a list", (f) => f.write(INDEX, text([])), "MODEL_CONFIG_INVALID", /weight_map is undefined/],
  [
    "a shard that is a number",
    (f) => f.write(INDEX, text({ weight_map: { a: 1 } })),
    "MODEL_CONFIG_INVALID",
    /\["a"\]/,
  ],
  ["a shard outside", (f) => f.write(INDEX, text({ weight_map: { a: "../x" } })), "PATH_UNSAFE", /"\.\.\/x"/],
  ["a shard in a folder", (f) => f.write(INDEX, text({ weight_map: { a: "b/x" } })), "PATH_UNSAFE", /"b\/x"/],
  ["an absolute shard", (f) => f.write(INDEX, text({ weight_map: { a: "/x" } })), "PATH_UNSAFE", /"\/x"/],
  [
    "a tensor that its shard lacks",
    (f) => f.write(INDEX, text({ weight_map: { ghost: "model-1-of-3.safetensors" } })),
    "TENSOR_MISSING",
    /"ghost" is not in model-1-of-3/,
  ],
  [
    "a truncated shard",
    async (f) => f.write("model-1-of-3.safetensors", (await f.read("model-1-of-3.safetensors")).slice(0, -1)),
    "SAFETENSORS_INVALID",
    /model-1-of-3\.safetensors/,
  ],
];

for (const [name, damage, code, message] of BROKEN)
  test(`${name} gives ${code}`, async () => {
    const folder = await writeTiny({ shards: 3 });
    await damage(folder);
    const opened = openCheckpoint(folder);
    await expect(opened).rejects.toMatchObject({ code });
    await expect(opened).rejects.toThrow(message);
  });

test("weights of another format are named", async () => {
  const folder = await temporaryFolder();
  await folder.write("config.json", text({}));
  await folder.write("pytorch_model.bin", text("x"));
  await expect(openCheckpoint(folder)).rejects.toThrow(/it has pytorch_model\.bin, which is not read/);
});

test("hashing beside other work gives the same hash; it can be stopped, and a missing file is named", async () => {
  const folder = await temporaryFolder();
  const chunk = Uint8Array.from({ length: 1 << 20 }, (_, i) => (i * i) >> 3);
  const large = function* () {
    for (let i = 0; i < 66; i++) yield chunk;
  };
  await folder.write("large", large());
  await folder.write("small", chunk.subarray(0, 777));
  const going = new AbortController();
  for (const names of [["small"], ["large", "small"], ["small", "large"]])
    expect(await sha256InBackground(folder, names, going.signal)).toBe(await sha256OfFiles(folder, names));
  await expect(sha256InBackground(folder, ["large", "gone"], going.signal)).rejects.toMatchObject({
    code: "FILE_NOT_FOUND",
  });
  const hashing = sha256InBackground(folder, ["large"], going.signal);
  going.abort(new Error("stopped"));
  await expect(hashing).rejects.toThrow("stopped");
});
