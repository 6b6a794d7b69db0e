// What each family takes from config.json beyond the switches of the parity fixtures, and what it refuses.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { FAMILY_NAMES } from "../../src/model/config.ts";
import { FAMILIES, KNOWN_LINEARS, linearAt, linearPath } from "../../src/model/families/index.ts";
import { parseModelConfig } from "../../src/model/read-config.ts";

const fixture = (name: string): Record<string, unknown> =>
  JSON.parse(readFileSync(`test/fixtures/parity/models/${name}/config.json`, "utf8"));

const REFUSED: [string, Record<string, unknown>, RegExp][] = [
  ["falcon-7b", { alibi: true }, /alibi: is true, supported: false/],
  ["falcon-7b", { activation: "relu" }, /activation: is "relu", supported: gelu/],
  ["falcon-7b", { num_ln_in_parallel_attn: 2 }, /num_ln_in_parallel_attn: is 2, supported: 1 or null without/],
  ["falcon-40b", { parallel_attn: false }, /parallel_attn: is false, supported: true with new_decoder_architecture/],
  ["mistral", { hidden_act: "gelu" }, /hidden_act: is "gelu"/],
  ["qwen2", { layer_types: ["full_attention", "linear_attention"] }, /layer_types.1: is "linear_attention"/],
  ["gemma2", { hidden_activation: "gelu" }, /hidden_activation: is "gelu", supported: gelu_pytorch_tanh/],
  ["gemma2", { use_bidirectional_attention: true }, /use_bidirectional_attention: is true/],
  ["gpt-neox", { hidden_act: "relu" }, /hidden_act: is "relu", supported: gelu, gelu_new/],
  ["gpt2", { scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx: is true/],
  ["gpt2", { add_cross_attention: true }, /add_cross_attention: is true/],
];

test.each(REFUSED)("%s with %j is refused", (name, change, message) => {
  expect(() => parseModelConfig({ ...fixture(name), ...change })).toThrow(
    expect.objectContaining({ code: "MODEL_UNSUPPORTED", message: expect.stringMatching(message) }),
  );
});

const INVALID: [string, Record<string, unknown>, RegExp][] = [
  ["qwen2", { layer_types: ["full_attention"] }, /layer_types: has 1 entries, expected 2/],
  ["phi3", { rope_scaling: { type: "longrope", short_factor: [1, 2] } }, /short_factor: has 2 entries, expected 6/],
  ["gpt-neox", { rotary_pct: 0.2 }, /rotated columns of a head: are 3, expected an even number/],
  ["falcon-7b", { num_attention_heads: 6 }, /hidden_size: is 56, expected a multiple of the 6 heads/],
];

test.each(INVALID)("%s with %j is invalid", (name, change, message) => {
  expect(() => parseModelConfig({ ...fixture(name), ...change })).toThrow(
    expect.objectContaining({ code: "MODEL_CONFIG_INVALID", message: expect.stringMatching(message) }),
  );
});

describe("windows", () => {
  const windows = (name: string, change: Record<string, unknown> = {}) =>
    parseModelConfig({ ...fixture(name), ...change }).perLayer.map(({ window }) => window);

  test("an explicit list of layer types wins over the family's rule", () => {
    expect(windows("gemma2")).toEqual([6, null]);
    expect(windows("gemma2", { layer_types: ["full_attention", "sliding_attention"] })).toEqual([null, 6]);
    expect(windows("qwen2")).toEqual([null, 5]);
    expect(windows("qwen2", { use_sliding_window: false })).toEqual([null, null]);
  });

  test("Gemma 3: five to one, and a rotary embedding for each kind in both spellings", () => {
    const older = parseModelConfig({ ...fixture("gemma3"), sliding_window_pattern: 6, num_hidden_layers: 7 });
    expect(older.perLayer.map(({ rope }) => rope)).toEqual([1, 1, 1, 1, 1, 0, 1]);
    const { rope_theta: _t, rope_local_base_freq: _l, rope_scaling: _s, ...rest } = fixture("gemma3");
    const newer = parseModelConfig({
      ...rest,
      rope_parameters: {
        full_attention: { rope_type: "linear", rope_theta: 1e6, factor: 8 },
        sliding_attention: { rope_type: "default", rope_theta: 1e4 },
      },
    });
    expect(newer.ropes).toEqual(older.ropes);
  });
});

test("every linear of every family is found again by its path", () => {
  for (const family of FAMILY_NAMES)
    for (const linear of Object.keys(FAMILIES[family].tensors.linears)) {
      expect(KNOWN_LINEARS).toContain(linear);
      expect(linearAt(family, linearPath(family, 13, linear))).toEqual({ layer: 13, linear });
    }
});
