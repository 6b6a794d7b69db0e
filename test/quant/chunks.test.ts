import { expect, test } from "vitest";
import type { Backend } from "../../src/backends/backend.ts";
import { openCpu } from "../../src/backends/cpu/cpu.ts";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { narrow, toBf16Words } from "../../src/formats/float-convert.ts";
import { bytesOf, type StoredTensor } from "../../src/formats/safetensors.ts";
import { dynamicMap } from "../../src/ops/code-books.ts";
import { CHUNK_BYTES, ChunkReader } from "../../src/quant/chunks.ts";
import { Quantizer } from "../../src/quant/quantizer.ts";
import { Uploader } from "../../src/quant/upload.ts";
import { matrix } from "../../src/tensor/tensor.ts";

/** A tensor that reads into the memory it is given, as files do, and counts what is still being read. */
function fileLike(dtype: "F32" | "BF16", content: Uint8Array) {
  const state = { reading: 0 };
  const tensor: StoredTensor = {
    name: "w",
    file: "memory",
    dtype,
    shape: [content.length / (dtype === "F32" ? 4 : 2)],
    bytes: content.length,
    read: async (offset = 0, length = content.length - offset, into) => {
      state.reading++;
      await new Promise((resolve) => setImmediate(resolve));
      const bytes = into?.subarray(0, length) ?? new Uint8Array(length);
      bytes.set(content.subarray(offset, offset + length));
      state.reading--;
      return bytes;
    },
  };
  return { tensor, state };
}

const noise = (count: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => (((Math.imul(i, 2654435761) >>> 8) & 0xffff) / 32768 - 1) * 0.03);

test("chunks are the tensor's bytes in order, and a caller that stops leaves no read behind", async () => {
  const content = bytesOf(noise((2.5 * CHUNK_BYTES) / 4));
  const { tensor, state } = fileLike("F32", content);
  const reader = new ChunkReader();
  const got = new Uint8Array(content.length);
  for await (const { bytes, at } of reader.chunks(tensor)) got.set(bytes, at);
  expect(Buffer.compare(got, content)).toBe(0);
  for await (const { at } of reader.chunks(tensor)) {
    expect(at).toBe(0);
    break;
  }
  expect(state.reading).toBe(0);
});

test("a weight quantised in chunks is the same as in one piece, and f32 is rounded to bf16 as on the host", async () => {
  const rows = 3;
  const cols = CHUNK_BYTES / 4 + 37;
  const values = rows * cols;
  const dense = noise(values);
  await using cpu = await openCpu({ threads: 2 });
  for (const dtype of ["F32", "BF16"] as const) {
    const content = bytesOf(dtype === "F32" ? dense : narrow(dense));
    const { tensor } = fileLike(dtype, content);
    const blocks = Math.ceil(values / 64);
    const size = { codes: Math.ceil(values / 2), scales: blocks, absmax2: 4 * Math.ceil(blocks / 256) };
    const at = { codes: 1024, scales: 0, absmax2: 0, offset: 0 };
    at.scales = Math.ceil((at.codes + size.codes) / 64) * 64;
    at.absmax2 = Math.ceil((at.scales + size.scales) / 64) * 64;
    at.offset = Math.ceil((at.absmax2 + size.absmax2) / 64) * 64;
    const bytes = at.offset + 64;
    const whole = cpu.alloc(content.length, "whole");
    const absmax = cpu.alloc(4 * blocks, "absmax");
    const [one, two] = [cpu.alloc(bytes, "in one piece"), cpu.alloc(bytes, "in chunks")];
    const parts = (buffer: typeof one) => ({
      codes: matrix(buffer, "u8", 1, size.codes, at.codes),
      map: matrix(buffer, "f32", 1, 256),
      scales: matrix(buffer, "u8", 1, blocks, at.scales),
      absmax2: matrix(buffer, "f32", 1, size.absmax2 / 4, at.absmax2),
      offset: matrix(buffer, "f32", 1, 1, at.offset),
    });
    for (const buffer of [one, two]) cpu.write(buffer, 0, bytesOf(dynamicMap()));
    cpu.write(whole, 0, content);
    const w = matrix(whole, dtype === "F32" ? "f32" : "bf16", rows, cols);
    const row = matrix(absmax, "f32", 1, blocks);
    const { codes, map, scales, absmax2, offset } = parts(one);
    cpu.run("quantize4bit", { w, codes, absmax: row, format: "nf4" });
    cpu.run("quantizeScales", { absmax: row, map, codes: scales, absmax2, offset });

    const quantizer = new Quantizer(cpu);
    const target = parts(two);
    await quantizer.quantize(
      { path: "w", rows, cols, transposed: false, weight: { kind: "dense", tensor }, bias: null },
      {
        format: "nf4",
        codes: target.codes,
        scales: {
          kind: "double",
          codes: target.scales,
          absmax2: target.absmax2,
          map: target.map,
          offset: target.offset,
        },
      },
    );
    quantizer.dispose();
    expect(Buffer.compare(await cpu.read(two, 0, bytes), await cpu.read(one, 0, bytes))).toBe(0);
    for (const buffer of [whole, absmax, one, two]) buffer.dispose();
  }
  const short = dense.subarray(0, 100_000);
  for (const backend of [cpu, new ReferenceBackend()] as Backend[]) {
    const out = backend.alloc(2 * short.length, "rounded");
    const uploader = new Uploader(backend, new ChunkReader());
    await uploader.floats(fileLike("F32", bytesOf(short)).tensor, { buffer: out, offset: 0 }, "bf16");
    uploader.dispose();
    expect(Buffer.compare(await backend.read(out, 0, out.bytes), bytesOf(toBf16Words("F32", bytesOf(short))))).toBe(0);
    out.dispose();
  }
});
