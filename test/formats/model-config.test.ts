import { expect, test } from "vitest";
import { parseModelConfig } from "../../src/model/read-config.ts";
import { TINY_JSON } from "../quant/tiny-model.ts";

const LLAMA3 = {
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};
const scaling = (json: object) => {
  const { ropes } = parseModelConfig({ ...TINY_JSON, rope_theta: undefined, ...json });
  expect(ropes).toHaveLength(1);
  return { theta: ropes[0]!.theta, ...ropes[0]!.scaling };
};

test("a plain config", () => {
  expect(parseModelConfig(TINY_JSON)).toEqual({
    family: "llama",
    architecture: "LlamaForCausalLM",
    vocabulary: 19,
    hidden: 24,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 6,
    intermediate: 37,
    maxPositions: 64,
    tiedEmbeddings: false,
    embeddingScale: 1,
    learnedPositions: false,
    logitSoftCap: null,
    norm: { kind: "rms", eps: 1e-5, storedLessOne: false },
    block: {
      residual: "sequential",
      norms: { attention: "input_layernorm", feedForward: "post_attention_layernorm" },
      linears: [
        { name: "q_proj", in: 24, out: 24, bias: false },
        { name: "k_proj", in: 24, out: 12, bias: false },
        { name: "v_proj", in: 24, out: 12, bias: false },
        { name: "o_proj", in: 24, out: 24, bias: false },
        { name: "gate_proj", in: 24, out: 37, bias: false },
        { name: "up_proj", in: 24, out: 37, bias: false },
        { name: "down_proj", in: 37, out: 24, bias: false },
      ],
      attention: {
        projection: { kind: "separate", query: "q_proj", key: "k_proj", value: "v_proj" },
        output: "o_proj",
        scale: 1 / Math.sqrt(6),
        softCap: null,
      },
      feedForward: {
        kind: "gated",
        projection: { kind: "separate", gate: "gate_proj", up: "up_proj" },
        down: "down_proj",
        activation: "silu",
      },
    },
    ropes: [{ theta: 10000, dims: 6, scaling: { kind: "none" } }],
    perLayer: [0, 1].map(() => ({ rope: 0, window: null })),
    bosId: 1,
    eosIds: [2],
  });
});

test("both spellings of rope settings mean the same", () => {
  const llama3 = {
    theta: 500000,
    kind: "llama3",
    factor: 8,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalMaxPositions: 8192,
  };
  expect(scaling({ rope_theta: 500000, rope_scaling: { rope_type: "llama3", ...LLAMA3 } })).toEqual(llama3);
  expect(scaling({ rope_theta: 500000, rope_scaling: { type: "llama3", ...LLAMA3 } })).toEqual(llama3);
  expect(scaling({ rope_parameters: { rope_type: "llama3", rope_theta: 500000, ...LLAMA3 } })).toEqual(llama3);
  const linear = { theta: 10000, kind: "linear", factor: 4 };
  expect(scaling({ rope_scaling: { type: "linear", factor: 4 } })).toEqual(linear);
  expect(scaling({ rope_parameters: { rope_type: "linear", factor: 4, rope_theta: 10000 } })).toEqual(linear);
  expect(scaling({ rope_scaling: null })).toEqual({ theta: 10000, kind: "none" });
  expect(scaling({ rope_parameters: { rope_type: "default", rope_theta: 7 } })).toEqual({ theta: 7, kind: "none" });
});

test("absent settings have the defaults of transformers", () => {
  const {
    bos_token_id: _b,
    eos_token_id: _e,
    num_key_value_heads: _k,
    head_dim: _h,
    rms_norm_eps: _r,
    ...rest
  } = TINY_JSON;
  expect(parseModelConfig({ ...rest, architectures: undefined })).toMatchObject({
    architecture: "LlamaForCausalLM",
    kvHeads: 4,
    headDim: 6,
    norm: { kind: "rms", eps: 1e-6, storedLessOne: false },
    bosId: 1,
    eosIds: [2],
  });
  expect(parseModelConfig({ ...rest, bos_token_id: null, eos_token_id: [3, 4] })).toMatchObject({
    bosId: null,
    eosIds: [3, 4],
  });
});

const UNSUPPORTED: [object, RegExp][] = [
  [
    { architectures: ["Qwen3MoeForCausalLM"] },
    /architectures: is "Qwen3MoeForCausalLM", supported: LlamaForCausalLM, FalconForCausalLM, MistralForCausalLM/,
  ],
  [{ architectures: undefined, model_type: "mamba" }, /model_type: is "mamba", supported: llama, falcon, mistral/],
  [{ hidden_act: "gelu" }, /hidden_act: is "gelu", supported: silu/],
  [{ sliding_window: 4096 }, /sliding_window: is 4096/],
  [
    { rope_scaling: { rope_type: "mrope", factor: 2 } },
    /rope_scaling\.rope_type: is "mrope", supported: default, linear, dynamic, llama3, yarn, longrope/,
  ],
  [{ rope_parameters: { rope_type: "proportional" } }, /rope_parameters\.rope_type: is "proportional"/],
];
for (const [change, message] of UNSUPPORTED)
  test(`${JSON.stringify(change)} is not supported`, () => {
    expect(() => parseModelConfig({ ...TINY_JSON, ...change }, "x/config.json")).toThrow(
      expect.objectContaining({ code: "MODEL_UNSUPPORTED", message: expect.stringMatching(message) }),
    );
  });

const INVALID: [unknown, RegExp][] = [
  [null, /the file/],
  [[], /the file/],
  [{ ...TINY_JSON, hidden_size: -1 }, /hidden_size/],
  [{ ...TINY_JSON, hidden_size: 1.5 }, /hidden_size/],
  [{ ...TINY_JSON, head_dim: 5 }, /head_dim: is 5, expected an even number/],
  [{ ...TINY_JSON, head_dim: null, hidden_size: 26 }, /hidden_size: is 26, expected a multiple of the 4 heads/],
  [{ ...TINY_JSON, num_key_value_heads: 3 }, /num_key_value_heads: is 3, expected a divisor/],
  [{ ...TINY_JSON, eos_token_id: 19 }, /has 19, expected less than 19/],
  [{ ...TINY_JSON, rope_scaling: { type: "linear" } }, /rope_scaling\.factor: is absent/],
  [{ ...TINY_JSON, rope_scaling: { type: "llama3", ...LLAMA3, high_freq_factor: 1 } }, /high_freq_factor: is 1/],
  [{ ...TINY_JSON, tie_word_embeddings: "yes" }, /tie_word_embeddings/],
];
for (const [json, message] of INVALID)
  test(`${JSON.stringify(json)?.slice(-60)} is invalid`, () => {
    expect(() => parseModelConfig(json)).toThrow(
      expect.objectContaining({ code: "MODEL_CONFIG_INVALID", message: expect.stringMatching(message) }),
    );
  });

test("all problems are reported together", () => {
  const broken = { ...TINY_JSON, vocab_size: "many", hidden_act: "relu", num_hidden_layers: 0, sliding_window: 9 };
  expect(() => parseModelConfig(broken)).toThrow(
    /4 problems:.*vocab_size.*num_hidden_layers.*hidden_act.*sliding_window/s,
  );
});
