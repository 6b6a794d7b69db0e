// Inverse frequencies of rotary embeddings, in f32 and in the order of operations of transformers, whose tables trained
// models have seen: f_i = 1 / θ^(2i/D); `linear` divides by a factor; `llama3` divides long wavelengths, keeps short ones
// and blends between (Llama 3.1).

import type { RopeOptions, RopeScaling } from "./config.ts";

const f32 = Math.fround;

/** f32 [D/2], scaling applied. */
export function ropeFrequencies({ theta, scaling }: RopeOptions, headDim: number): Float32Array {
  const base = f32(theta);
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const exponent = f32((2 * i) / headDim);
    return scaled(f32(1 / f32(base ** exponent)), scaling);
  });
}

function scaled(frequency: number, scaling: RopeScaling): number {
  switch (scaling.kind) {
    case "none":
      return frequency;
    case "linear":
      return f32(frequency / f32(scaling.factor));
    case "llama3":
      return llama3(frequency, scaling);
  }
}

function llama3(frequency: number, scaling: Extract<RopeScaling, { kind: "llama3" }>): number {
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalMaxPositions: positions } = scaling;
  const wavelength = f32(f32(1 / frequency) * f32(2 * Math.PI));
  const divided = f32(frequency / f32(factor));
  if (wavelength > f32(positions / low)) return divided;
  if (wavelength < f32(positions / high)) return frequency;
  const turns = f32(f32(1 / wavelength) * positions);
  const blend = f32(f32(turns - f32(low)) / f32(high - low));
  return f32(f32(f32(f32(1 - blend) * frequency) / f32(factor)) + f32(blend * frequency));
}
