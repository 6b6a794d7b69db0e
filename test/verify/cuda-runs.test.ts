// `npm run verify:cuda`: what runs on the GPU promise beside the ops' contract: equal bits from equal runs, memory in order,
// and errors that say what happened.

import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backends/backend.ts";
import { type CudaBackend, openCuda } from "../../src/backends/cuda/cuda.ts";
import type { Batch } from "../../src/data/batch.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import type { KeepLevel } from "../../src/model/steps.ts";
import { toBf16 } from "../../src/tensor/dtype.ts";
import { matrix, type Tensor } from "../../src/tensor/tensor.ts";
import { learn } from "../model/learn.ts";
import { adapterConfig, randomAdapter, randomBatch, TINY_JSON, tinyModel } from "../model/tiny-model.ts";
import { MemoryFolder } from "../train/memory-folder.ts";
import { trainConfig, trainTiny } from "../train/tiny-run.ts";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
const TUNING = "tuning.json";

/** Wide enough that the algorithms of its larger products are timed, and the first taken for the others. */
const WIDE = parseModelConfig({ ...TINY_JSON, hidden_size: 512, intermediate_size: 1408, vocab_size: 600 });
const TOKENS = 1024;

describe("equal runs", () => {
  for (const computeDtype of ["f32", "bf16"] as const) {
    const config = trainConfig(
      { rankMax: 16 },
      { batch: { seq: TOKENS, microBatch: 2, accumulation: 2, packing: false } },
    );
    const wide = { model: WIDE, tokens: TOKENS, step: wideBatches };
    const run = (folder: MemoryFolder, more: Partial<Parameters<typeof trainTiny>[0]> = {}) =>
      trainTiny({ folder, config, open: () => openCuda(), computeDtype, ...wide, ...more });

    it(`give the same bits with the same choice of algorithms (${computeDtype})`, async () => {
      const [first, second] = [new MemoryFolder(), new MemoryFolder()];
      const { after } = await run(first);
      await second.write(TUNING, await first.read(TUNING));
      expect((await run(second, { open: () => openWith(first) })).after).toEqual(after);
    });

    it(`give the same bits with and without graphs (${computeDtype})`, async () => {
      const folder = new MemoryFolder();
      const { after } = await run(folder);
      expect((await run(new MemoryFolder(), { open: () => withoutGraphs(folder) })).after).toEqual(after);
    });

    it(`end in the same bits when one is stopped and resumed (${computeDtype})`, async () => {
      const whole = new MemoryFolder();
      const { after } = await run(whole);
      const parted = new MemoryFolder();
      await run(parted, {
        open: () => openWith(whole),
        onEvent: (event, stop) => {
          if (event.type === "step" && event.step === 2) stop.abort();
        },
      });
      expect((await run(parted, { resume: true })).after).toEqual(after);
    });
  }
});

/** Of as many tokens as there is room for, and of fewer. */
function wideBatches(step: number): Batch[] {
  return [randomBatch([400, TOKENS - 400], 100 + step), randomBatch([TOKENS - 8 * step - 100], 200 + step)];
}

async function openWith(folder: MemoryFolder): Promise<CudaBackend> {
  const backend = await openCuda();
  backend.tuning.load(new TextDecoder().decode(await folder.read(TUNING)));
  return backend;
}

async function withoutGraphs(folder: MemoryFolder): Promise<Backend> {
  const backend = await openWith(folder);
  Object.defineProperty(backend, "record", { value: undefined });
  return backend;
}

describe("activations in the host's memory", () => {
  const config = parseModelConfig({ ...TINY_JSON, num_hidden_layers: 5 });
  const batches = [randomBatch([13, 1, 7])];
  /** Loss and gradients, the list run often enough to become a graph. */
  const learnAt = async (backend: Backend, levels: readonly KeepLevel[], computeDtype: "f32" | "bf16") => {
    const model = tinyModel(backend, computeDtype, config);
    const adapter = randomAdapter(backend, model, adapterConfig());
    try {
      const { loss, gradients } = await learn({ backend, model, adapter, levels, rank: 5, batches, repeats: 5 });
      return { loss, gradients };
    } finally {
      adapter[Symbol.dispose]();
      model.dispose();
    }
  };
  const everywhere = (level: KeepLevel): KeepLevel[] => Array(5).fill(level);

  for (const computeDtype of ["f32", "bf16"] as const)
    it.each<{ levels: KeepLevel[] }>([
      { levels: everywhere("offload") },
      { levels: everywhere("offload-input") },
      { levels: ["offload-input", "offload", "offload-input", "recompute-layer", "keep"] },
    ])(`give the bits of kept ones (${computeDtype}, $levels)`, async ({ levels }) => {
      await using backend = await openCuda({ deterministic: true });
      const kept = await learnAt(backend, everywhere("keep"), computeDtype);
      expect(await learnAt(backend, levels, computeDtype)).toEqual(kept);
      Object.defineProperty(backend, "record", { value: undefined });
      expect(await learnAt(backend, levels, computeDtype)).toEqual(kept);
    });

  it("are copied beside the work, in its order, whatever the rows' pitch", async () => {
    await using backend = await openCuda();
    const [rows, cols] = [4096, 1000];
    const buffers = (["device", "host", "device"] as const).map((where) =>
      backend.alloc(2 * rows * 1024, where, where),
    );
    const [x, away, back] = buffers.map((buffer, i) => matrix(buffer, "bf16", rows, cols, 0, i === 1 ? cols : 1024));
    const copy = (from: Tensor, to: Tensor, group: number) => {
      backend.run("startCopies", { xs: [from], ys: [to], group });
      backend.run("awaitCopies", { held: [from, to], group });
    };
    for (const value of [1, 2, 3]) {
      backend.run("fill", { y: x!, value });
      copy(x!, away!, 0);
      backend.run("fill", { y: x!, value: -1 });
      copy(away!, back!, 1);
      const bytes = await backend.read(buffers[2]!, 0, 2 * 1024 * rows);
      const values = new Uint16Array(bytes.slice().buffer);
      const expected = Array.from({ length: 1024 }, (_, i) => (i < cols ? toBf16(value) : 0));
      for (const row of [0, 1, rows - 1]) expect([...values.subarray(1024 * row, 1024 * row + 1024)]).toEqual(expected);
    }
    for (const buffer of buffers) buffer.dispose();
  });
});

describe("memory", () => {
  it("keeps what is written and read in the order of the ops", async () => {
    await using backend = await openCuda();
    const bytes = (100 << 20) + 12;
    const buffer = backend.alloc(bytes, "large");
    const content = new Uint8Array(bytes).map((_, i) => (i * 2654435761) >>> 24);
    backend.write(buffer, 0, content);
    const before = backend.read(buffer, 0, bytes);
    backend.run("fill", { y: matrix(buffer, "f32", 1, bytes / 4), value: 0 });
    const after = backend.read(buffer, 4, 100);
    backend.write(buffer, 8, Uint8Array.of(1, 2, 3));
    expect(Buffer.compare(await before, content)).toBe(0);
    expect(await after).toEqual(new Uint8Array(100));
    expect(await backend.read(buffer, 7, 5)).toEqual(Uint8Array.of(0, 1, 2, 3, 0));
    buffer.dispose();
  });

  it("is refused with the numbers where there is none", async () => {
    await using backend = await openCuda();
    const bytes = 2 ** 42;
    const exceeded = { code: "MEMORY_EXCEEDED", details: { bytes, label: "everything", allocatedBytes: 0 } };
    expect(() => backend.alloc(bytes, "everything")).toThrow(
      expect.objectContaining({ ...exceeded, message: expect.stringMatching(/the GPU has \d+ bytes free of \d+/) }),
    );
    await using limited = await openCuda({ memoryBytes: 1000 });
    expect(() => limited.alloc(1001, "a little")).toThrow(expect.objectContaining({ code: "MEMORY_EXCEEDED" }));
  });
});

describe("errors", () => {
  it("name the GPUs that there are", async () => {
    await expect(openCuda({ index: 99 })).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
      message: expect.stringMatching(/device is 99, expected a whole number below \d+/),
    });
  });

  it("of a kernel name the op that was enqueued last", () => {
    const { stdout, stderr } = spawnSync(process.execPath, ["bench/run.mjs", "test/verify/cuda-fault.ts"], {
      cwd: ROOT,
      encoding: "utf8",
    });
    expect(stderr).toBe("");
    const { code, message, hint } = JSON.parse(stdout);
    expect(code).toBe("DEVICE_FAILED");
    expect(message).toMatch(/CUDA_ERROR_ILLEGAL_ADDRESS, 700\); enqueued last was fill$/);
    expect(hint).toMatch(/CUDA_LAUNCH_BLOCKING/);
  });

  it("say so where every GPU is hidden", () => {
    const { stdout } = spawnSync(process.execPath, ["bench/run.mjs", "test/verify/cuda-hidden.ts"], {
      cwd: ROOT,
      encoding: "utf8",
      env: { ...process.env, CUDA_VISIBLE_DEVICES: "" },
    });
    expect(JSON.parse(stdout)).toMatchObject({
      code: "BACKEND_UNAVAILABLE",
      message: expect.stringContaining("finds no NVIDIA GPU"),
      hint: expect.stringContaining("CUDA_VISIBLE_DEVICES"),
    });
  });
});
