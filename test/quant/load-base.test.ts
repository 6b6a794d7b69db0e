import { expect, test } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { QdlError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { linearPath } from "../../src/model/families/index.ts";
import type { FrozenModel } from "../../src/model/frozen-model.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { dynamicMap } from "../../src/ops/code-books.ts";
import { type BaseFormat, decodeWeight } from "../../src/ops/frozen-weight.ts";
import { quantize4bit } from "../../src/ops/quantize-4bit.ts";
import { quantizeScales } from "../../src/ops/quantize-scales.ts";
import { estimateBaseBytes } from "../../src/quant/estimate-base.ts";
import { type LoadBaseOptions, loadBase } from "../../src/quant/load-base.ts";
import { fromBf16, toBf16 } from "../../src/tensor/dtype.ts";
import { hostTensor, readMatrix } from "../../src/tensor/host.ts";
import {
  decodeValues,
  encodeValues,
  firstDifference,
  replaceTensor,
  type TinyOptions,
  tinyValues,
  writeTiny,
} from "./tiny-model.ts";

const IDENTITY = { name: "tiny", revision: null, sha256: "0", templateSha256: null };
const BF16 = (values: Float32Array) => values.map((v) => fromBf16(toBf16(v)));

async function load(
  options: TinyOptions,
  loading: Partial<LoadBaseOptions>,
  use: (base: FrozenModel, backend: ReferenceBackend) => Promise<void> | void = () => {},
): Promise<void> {
  const checkpoint = await openCheckpoint(await writeTiny(options));
  await using backend = new ReferenceBackend();
  try {
    const config = parseModelConfig(checkpoint.configJson);
    const base = await loadBase({ checkpoint, config, backend, identity: IDENTITY, ...loading });
    try {
      await use(base, backend);
    } finally {
      base.dispose();
    }
  } finally {
    await checkpoint.close();
    expect(backend.allocatedBytes).toBe(0);
  }
}

const FORMATS: BaseFormat[] = ["nf4", "fp4", "bf16", "f32"];
const DTYPES = ["F32", "BF16", "F16"] as const;

for (const format of FORMATS)
  for (const dtype of DTYPES)
    for (const doubleQuant of [true, false])
      test(`${format} from ${dtype}${doubleQuant ? " with double quantisation" : ""} equals its parts`, async () => {
        await load({ dtype, attentionBias: true }, { format, doubleQuant, computeDtype: "f32" }, (base) => {
          const { config } = base;
          const exact = (name: string, n: number) => decodeValues(encodeValues(tinyValues(name, n), dtype), dtype);
          const embedding = exact("model.embed_tokens.weight", config.vocabulary * config.hidden);
          expect(firstDifference(readMatrix(base.embedding), format === "f32" ? embedding : BF16(embedding))).toBe(-1);
          expect(base.head).not.toBe(base.embedding);
          expect(firstDifference(readMatrix(base.finalNorm.weight), exact("model.norm.weight", config.hidden))).toBe(
            -1,
          );
          for (const [i, layer] of base.layers.entries())
            for (const { name, in: cols, out: rows } of config.block.linears) {
              const path = linearPath("llama", i, name);
              const { weight, bias } = layer.linears[name]!;
              const stored = exact(`${path}.weight`, rows * cols);
              expect(weight).toMatchObject({ format, rows, cols });
              const want = expected(stored, rows, cols, format, doubleQuant);
              const got = decodeWeight(weight);
              expect(firstDifference(got, want)).toBe(-1);
              expect(bias === null).toBe(!path.includes("self_attn"));
              if (bias) expect(firstDifference(readMatrix(bias), exact(`${path}.bias`, rows))).toBe(-1);
            }
          expect(base.bytes).toBe(estimateBaseBytes({ config, format, doubleQuant, computeDtype: "f32" }));
          expect(base.identity).toEqual({
            ...IDENTITY,
            family: "llama",
            format,
            blockSize: 64,
            doubleQuant: doubleQuant && (format === "nf4" || format === "fp4"),
          });
        });
      });

/** The decoded weight, by the ops' own references. */
function expected(values: Float32Array, rows: number, cols: number, format: BaseFormat, doubleQuant: boolean) {
  if (format === "f32") return values;
  if (format === "bf16") return BF16(values);
  const blocks = Math.ceil((rows * cols) / 64);
  const codes = hostTensor("u8", 1, Math.ceil((rows * cols) / 2));
  const absmax = hostTensor("f32", 1, blocks);
  quantize4bit.reference({ w: hostTensor("f32", rows, cols, values), codes, absmax, format });
  if (!doubleQuant) return decodeWeight({ format, rows, cols, codes, scales: { kind: "plain", absmax } });
  const map = hostTensor("f32", 1, 256, dynamicMap());
  const scales = { codes: hostTensor("u8", 1, blocks), absmax2: hostTensor("f32", 1, Math.ceil(blocks / 256)), map };
  const mean = hostTensor("f32", 1, 1);
  quantizeScales.reference({ absmax, ...scales, offset: mean });
  const offset = readMatrix(mean)[0]!;
  return decodeWeight({ format, rows, cols, codes, scales: { kind: "double", ...scales, offset } });
}

test("tied embeddings are held once, shards and other prefixes are found, progress reaches its total", async () => {
  const seen: number[] = [];
  let total = 0;
  const onProgress: LoadBaseOptions["onProgress"] = ({ doneBytes, totalBytes }) => {
    seen.push(doneBytes);
    total = totalBytes;
  };
  for (const prefix of ["model.", "", "language_model.model."])
    await load({ tied: true, shards: 3, prefix }, { onProgress, computeDtype: "bf16" }, (base) => {
      expect(base.head).toBe(base.embedding);
      expect(base.identity.format).toBe("nf4");
      expect(seen.at(-1)).toBe(total);
    });
});

const bad: [string, TinyOptions, string, RegExp][] = [
  [
    "a missing tensor",
    { change: (t) => t.filter(({ name }) => !name.includes("layers.1.mlp.up_proj") && name !== "model.norm.weight") },
    "TENSOR_MISSING",
    /model\.norm\.weight; model\.layers\.1\.mlp\.up_proj\.weight not in/,
  ],
  [
    "another width",
    { config: { intermediate_size: 36 } },
    "TENSOR_SHAPE",
    /gate_proj\.weight is \[37, 24\], expected \[36, 24\]/,
  ],
  [
    "another vocabulary",
    { config: { vocab_size: 20 } },
    "TENSOR_SHAPE",
    /embed_tokens\.weight is \[19, 24\], expected \[20, 24\]/,
  ],
  [
    "a bias that the config denies",
    { attentionBias: true, config: { attention_bias: false } },
    "MODEL_CONFIG_INVALID",
    /q_proj\.bias is stored/,
  ],
  [
    "integer weights",
    {
      change: (t) =>
        replaceTensor(t, "model.norm.weight", (x) => ({ ...x, dtype: "I8", content: new Uint8Array(24) })).sort(
          (a, b) => Number(a.dtype === "I8") - Number(b.dtype === "I8"),
        ),
    },
    "TENSOR_DTYPE",
    /model\.norm\.weight is I8/,
  ],
  [
    "another quantisation",
    { config: { quantization_config: { quant_method: "gptq", bits: 4 } } },
    "MODEL_UNSUPPORTED",
    /gptq/,
  ],
];

for (const [name, options, code, message] of bad)
  test(`${name} gives ${code}`, async () => {
    const failure = load(options, {});
    await expect(failure).rejects.toMatchObject({ code });
    await expect(failure).rejects.toThrow(message);
    await expect(failure).rejects.toBeInstanceOf(QdlError);
  });

// 888 weights, 456 of the embedding: the last block of both is short.
for (const [dtype, word] of [
  ["BF16", [0xc0, 0x7f]],
  ["BF16", [0x80, 0xff]],
  ["F16", [0x00, 0x7c]],
  ["F16", [0x01, 0xfc]],
  ["F32", [0x00, 0x00, 0xc0, 0x7f]],
  ["F32", [0x00, 0x00, 0x80, 0xff]],
] as const)
  for (const [name, count] of [
    ["model.layers.1.mlp.down_proj.weight", 888],
    ["model.embed_tokens.weight", 456],
  ] as const)
    test(`${dtype} ${word.map((b) => b.toString(16))} in ${name} gives TENSOR_NONFINITE with its place`, async () => {
      for (const [format, doubleQuant] of [
        ["nf4", true],
        ["fp4", false],
        ["bf16", true],
      ] as const)
        for (const index of [0, 7, 64, count - 1]) {
          const change: TinyOptions["change"] = (tensors) =>
            replaceTensor(tensors, name, (tensor) => {
              const content = (tensor.content as Uint8Array).slice();
              content.set(word, index * word.length);
              return { ...tensor, content };
            });
          await expect(load({ dtype, change }, { format, doubleQuant })).rejects.toMatchObject({
            code: "TENSOR_NONFINITE",
            details: { tensor: name, index },
          });
        }
    });

test("an identity that fails fails the load, and nothing leaks", async () => {
  const identity = Promise.reject(new QdlError("FILE_UNREADABLE", "the disk is gone"));
  identity.catch(() => {});
  await expect(load({}, { identity })).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
});
