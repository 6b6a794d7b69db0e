import fc from "fast-check";
import { expect, test } from "vitest";
import { QdlError } from "../../src/errors.ts";
import { type ByteSource, memorySource } from "../../src/formats/byte-source.ts";
import { bytesOf, encodeSafetensors, openSafetensors, type TensorToWrite } from "../../src/formats/safetensors.ts";
import { MAX_HEADER_BYTES } from "../../src/formats/safetensors-header.ts";

async function encode(tensors: TensorToWrite[], metadata?: Record<string, string>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of encodeSafetensors(tensors, metadata)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** A file with this header text and this many data bytes. */
function fileOf(header: string, dataBytes: number, statedLength?: bigint): Uint8Array {
  const json = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, statedLength ?? BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

const SIZES = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I8: 1, U8: 1, BOOL: 1 } as const;
/** Wide dtypes first, so that every tensor is aligned whatever its shape. */
const BY_WIDTH = (a: TensorToWrite, b: TensorToWrite) =>
  SIZES[b.dtype as keyof typeof SIZES] - SIZES[a.dtype as keyof typeof SIZES];

const tensorArbitrary = fc
  .record({
    name: fc.string({ unit: "binary", minLength: 0, maxLength: 12 }).filter((name) => name !== "__metadata__"),
    dtype: fc.constantFrom(...(Object.keys(SIZES) as (keyof typeof SIZES)[])),
    shape: fc.array(fc.nat(5), { maxLength: 4 }),
    seed: fc.nat(255),
  })
  .map(({ name, dtype, shape, seed }): TensorToWrite => {
    const bytes = shape.reduce((product, size) => product * size, SIZES[dtype]);
    return { name, dtype, shape, content: Uint8Array.from({ length: bytes }, (_, i) => i * 7 + seed) };
  });
const tensorsArbitrary = fc
  .uniqueArray(tensorArbitrary, { selector: (tensor) => tensor.name, maxLength: 6 })
  .map((tensors) => tensors.sort(BY_WIDTH));
const metadataArbitrary = fc.dictionary(fc.string({ maxLength: 8 }), fc.string({ maxLength: 8 }), { maxKeys: 3 });

test("what is written is read back: names, dtypes, shapes, bytes, metadata; equal input gives equal bytes", async () => {
  await fc.assert(
    fc.asyncProperty(tensorsArbitrary, metadataArbitrary, async (tensors, metadata) => {
      const bytes = await encode(tensors, metadata);
      expect(Buffer.compare(bytes, await encode(tensors, metadata))).toBe(0);
      expect(Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true)) % 8).toBe(0);
      const file = await openSafetensors(memorySource(bytes));
      expect([...file.names].sort()).toEqual(tensors.map(({ name }) => name).sort());
      expect({ ...file.metadata }).toEqual({ ...metadata });
      for (const { name, dtype, shape, content } of tensors) {
        const tensor = file.tensor(name);
        expect(tensor).toMatchObject({ name, dtype, shape });
        expect(Buffer.compare(await tensor.read(), content as Uint8Array)).toBe(0);
        const half = tensor.bytes >> 1;
        expect(Buffer.compare(await tensor.read(half), (content as Uint8Array).subarray(half))).toBe(0);
      }
    }),
    { numRuns: 200, seed: 1 },
  );
});

/** Fails the test if more is read than the file has. */
function watchedSource(bytes: Uint8Array): ByteSource {
  const source = memorySource(bytes, "fuzz");
  return {
    ...source,
    read: (offset, length) => {
      expect(offset + length).toBeLessThanOrEqual(bytes.length);
      return source.read(offset, length);
    },
  };
}

async function openOrRefuse(bytes: Uint8Array): Promise<boolean> {
  try {
    const file = await openSafetensors(watchedSource(bytes));
    let covered = 0;
    for (const name of file.names) covered += (await file.tensor(name).read()).length;
    expect(covered).toBeLessThanOrEqual(bytes.length);
    return true;
  } catch (error) {
    if (error instanceof QdlError && error.code === "SAFETENSORS_INVALID") return false;
    throw error;
  }
}

test("4,000 damaged files are refused with SAFETENSORS_INVALID or read inside their bounds", async () => {
  const edit = fc.record({ at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), byte: fc.nat(255) });
  const interesting = fc.constantFrom(...'{}[]":,-0129e.\\uFU'.split("").map((c) => c.charCodeAt(0)));
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(
      tensorsArbitrary,
      fc.array(
        fc.oneof(
          edit,
          edit.chain((e) => interesting.map((byte) => ({ ...e, byte }))),
        ),
        { minLength: 1, maxLength: 4 },
      ),
      fc.option(fc.double({ min: 0, max: 1, noNaN: true })),
      async (tensors, edits, cut) => {
        const bytes = Uint8Array.from(await encode(tensors, { format: "pt" }));
        const header = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
        for (const { at, byte } of edits) bytes[Math.floor(at * header)] = byte;
        const kept = cut === null ? bytes : bytes.subarray(0, Math.floor(cut * bytes.length));
        if (!(await openOrRefuse(kept))) refused++;
      },
    ),
    { numRuns: 4000, seed: 2 },
  );
  expect(refused).toBeGreaterThan(3000);
});

const entry = (dtype: unknown, shape: unknown, offsets: unknown) =>
  JSON.stringify({ dtype, shape, data_offsets: offsets });
const one = (dtype: unknown, shape: unknown, offsets: unknown) => `{"t":${entry(dtype, shape, offsets)}}`;

const LIES: [string, Uint8Array, RegExp][] = [
  ["an empty file", new Uint8Array(0), /file is 0, expected at least 8 bytes/],
  ["a header longer than the file", fileOf("{}", 0, 1000n), /header length is 1000, expected at most 2/],
  ["a header length of 2⁶⁴−1", fileOf("{}", 0, 2n ** 64n - 1n), /header length is 18446744073709551615/],
  ["no JSON", fileOf("{oops}", 0), /expected valid UTF-8 JSON/],
  ["JSON nested too deep", fileOf(`{"a":${"[".repeat(200_000)}`, 0), /expected valid UTF-8 JSON/],
  ["a list", fileOf("[]", 0), /header is \[\], expected a JSON object/],
  ["broken UTF-8", fileOf('{"\u00ff":1}', 0).map((b) => (b === 0xc3 ? 0xff : b)), /expected valid UTF-8 JSON/],
  ["metadata that is no string", fileOf('{"__metadata__":{"a":1}}', 0), /__metadata__\.a is number/],
  ["a name twice", fileOf(`{"t":${entry("U8", [1], [0, 1])},"\\u0074":${entry("U8", [1], [0, 1])}}`, 1), /"t" twice/],
  ["an unknown dtype", fileOf(one("F33", [1], [0, 4]), 4), /t\.dtype is "F33"/],
  ["a dtype from the prototype", fileOf(one("constructor", [1], [0, 4]), 4), /t\.dtype is "constructor"/],
  ["a negative size", fileOf(one("F32", [-1], [0, 4]), 4), /t\.shape is \[-1\]/],
  ["a fractional size", fileOf(one("F32", [0.5], [0, 2]), 2), /t\.shape is \[0\.5\]/],
  ["a shape that overflows", fileOf(one("F32", [2 ** 31, 2 ** 31], [0, 4]), 4), /t is 4 bytes/],
  ["offsets beyond the data", fileOf(one("F32", [2], [0, 8]), 4), /inside the 4 data bytes/],
  ["offsets backwards", fileOf(one("F32", [0], [4, 0]), 4), /t\.data_offsets is 4\.\.0/],
  ["three offsets", fileOf(one("F32", [1], [0, 4, 8]), 8), /two whole numbers/],
  ["dtype × shape against offsets", fileOf(one("F32", [1], [0, 2]), 2), /t is 2 bytes, expected 4 bytes \(F32 \[1\]\)/],
  ["a hole", fileOf(`{"a":${entry("U8", [1], [0, 1])},"b":${entry("U8", [1], [2, 3])}}`, 3), /b is 2: a hole/],
  ["an overlap", fileOf(`{"a":${entry("U8", [2], [0, 2])},"b":${entry("U8", [2], [1, 3])}}`, 3), /b is 1: an overlap/],
  ["bytes that no tensor has", fileOf(one("U8", [1], [0, 1]), 2), /data is 2 bytes, expected 1 bytes/],
];

for (const [name, bytes, message] of LIES)
  test(`${name} is refused`, async () => {
    const opened = openSafetensors(watchedSource(bytes));
    await expect(opened).rejects.toMatchObject({ code: "SAFETENSORS_INVALID", details: { path: "fuzz" } });
    await expect(opened).rejects.toThrow(message);
  });

test("a header beyond the format's limit is refused before it is read", async () => {
  const source: ByteSource = {
    name: "huge",
    size: 2 ** 40,
    read: async (_offset, length) => {
      expect(length).toBe(8);
      return bytesOf(BigUint64Array.of(BigInt(MAX_HEADER_BYTES) + 1n));
    },
    close: () => Promise.resolve(),
  };
  await expect(openSafetensors(source)).rejects.toMatchObject({ code: "SAFETENSORS_INVALID" });
});

test("reading outside a tensor and asking for an absent one are refused", async () => {
  const file = await openSafetensors(
    memorySource(await encode([{ name: "t", dtype: "U8", shape: [4], content: new Uint8Array(4) }])),
  );
  await expect(file.tensor("t").read(2, 3)).rejects.toMatchObject({ code: "OP_ARGUMENT" });
  expect(() => file.tensor("u")).toThrow(expect.objectContaining({ code: "TENSOR_MISSING" }));
});

const u8 = (name: string, bytes: number, stated = bytes): TensorToWrite => ({
  name,
  dtype: "U8",
  shape: [stated],
  content: new Uint8Array(bytes),
});
const MISUSES: [string, TensorToWrite[]][] = [
  ["a name twice", [u8("a", 1), u8("a", 1)]],
  ["too few bytes", [u8("a", 1, 2)]],
  ["too many bytes", [u8("a", 3, 2)]],
  ["a misaligned tensor", [u8("a", 1), { name: "b", dtype: "F32", shape: [1], content: new Uint8Array(4) }]],
];
for (const [name, tensors] of MISUSES)
  test(`writing ${name} is refused`, async () => {
    await expect(encode(tensors)).rejects.toMatchObject({ code: "OP_ARGUMENT" });
  });
