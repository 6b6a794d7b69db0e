import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { openBackend } from "../../src/backends/open.ts";
import { memorySource } from "../../src/formats/byte-source.ts";
import { hasBlocks, openGgufModel } from "../../src/formats/gguf-model.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { measureBaseError } from "../../src/quant/base-error.ts";
import { loadBase } from "../../src/quant/load-base.ts";

const IDENTITY = { name: "m", revision: null, sha256: "", templateSha256: null };

async function errorOf(format: "nf4" | "fp4" | "bf16" | "f32") {
  const bytes = new Uint8Array(readFileSync(new URL("../fixtures/gguf/llama-tied.gguf", import.meta.url)));
  const checkpoint = await openGgufModel(memorySource(bytes), "m.gguf");
  expect(hasBlocks(checkpoint)).toBe(false);
  const config = parseModelConfig(checkpoint.configJson);
  await using backend = await openBackend("reference");
  const model = await loadBase({ checkpoint, config, backend, format, identity: IDENTITY, computeDtype: "f32" });
  try {
    return await measureBaseError(backend, model, checkpoint);
  } finally {
    model.dispose();
  }
}

test("a base's distance from its file: none in f32, small in bf16, that of 4 bit on normal values in NF4 and FP4", async () => {
  expect((await errorOf("f32")).relative).toBe(0);
  const bf16 = (await errorOf("bf16")).relative;
  expect(bf16).toBeGreaterThan(1e-4);
  expect(bf16).toBeLessThan(2 ** -8);
  const nf4 = await errorOf("nf4");
  // NF4 on normal values in blocks of 64: about 9 %; FP4 is worse.
  expect(nf4.relative).toBeGreaterThan(0.08);
  expect(nf4.relative).toBeLessThan(0.11);
  expect((await errorOf("fp4")).relative).toBeGreaterThan(1.2 * nf4.relative);
  expect(nf4.linears.map(({ name }) => name).sort()).toEqual(
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].sort(),
  );
  for (const { relative } of nf4.linears) expect(relative).toBeGreaterThan(0.07);
});
