// Inverse frequencies of rotary embeddings, in f32 and in the order of operations of transformers, whose tables trained
// models have seen: f_i = 1 / θ^(2i/D), then scaled. `linear` divides by a factor; `dynamic` raises θ for sequences longer than
// the model was made for; `llama3` divides long wavelengths, keeps short ones and blends between (Llama 3.1); `yarn` blends by
// the number of turns within the trained length (arXiv 2309.00071); `longrope` divides each frequency by a factor of its own,
// others for long sequences (arXiv 2402.13753).

import type { RopeOptions, RopeScaling } from "./config.ts";

const f32 = Math.fround;

/** f32 [D/2], scaling applied. `longest`: tokens of the longest sequence; two of the scalings depend on it. */
export function ropeFrequencies({ theta, dims, scaling }: RopeOptions, longest: number): Float32Array {
  const base = scaling.kind === "dynamic" ? dynamicBase(theta, dims, scaling, longest) : f32(theta);
  const powers = Float32Array.from({ length: dims / 2 }, (_, i) => base ** f32((2 * i) / dims));
  if (scaling.kind === "yarn") return yarn(powers, { theta, dims, scaling });
  if (scaling.kind === "longrope") {
    const factors = longest > scaling.originalMaxPositions ? scaling.long : scaling.short;
    return powers.map((power, i) => 1 / f32(f32(factors[i]!) * power));
  }
  return powers.map((power) => scaled(f32(1 / power), scaling));
}

/** Factor on cos and sin. */
export const ropeMagnitude = ({ scaling }: RopeOptions): number => ("magnitude" in scaling ? scaling.magnitude : 1);

type Scaling<K extends RopeScaling["kind"]> = Extract<RopeScaling, { kind: K }>;

function dynamicBase(
  theta: number,
  dims: number,
  { factor, maxPositions }: Scaling<"dynamic">,
  longest: number,
): number {
  const length = Math.max(longest, maxPositions);
  const stretch = f32(f32(f32(factor * length) / maxPositions) - (factor - 1));
  return f32(theta * f32(stretch ** (dims / (dims - 2))));
}

function scaled(frequency: number, scaling: RopeScaling): number {
  switch (scaling.kind) {
    case "linear":
      return f32(frequency / f32(scaling.factor));
    case "llama3":
      return llama3(frequency, scaling);
    default:
      return frequency;
  }
}

function llama3(frequency: number, scaling: Scaling<"llama3">): number {
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalMaxPositions: positions } = scaling;
  const wavelength = f32(f32(1 / frequency) * f32(2 * Math.PI));
  const divided = f32(frequency / f32(factor));
  if (wavelength > f32(positions / low)) return divided;
  if (wavelength < f32(positions / high)) return frequency;
  const turns = f32(f32(1 / wavelength) * positions);
  const blend = f32(f32(turns - f32(low)) / f32(high - low));
  return f32(f32(f32(f32(1 - blend) * frequency) / f32(factor)) + f32(blend * frequency));
}

interface YarnOptions extends Pick<RopeOptions, "theta" | "dims"> {
  readonly scaling: Scaling<"yarn">;
}

function yarn(powers: Float32Array, { theta, dims, scaling }: YarnOptions): Float32Array {
  const { factor, betaFast, betaSlow, originalMaxPositions, truncate } = scaling;
  /** The pair that turns so often within the trained length. */
  const pair = (turns: number): number =>
    (dims * Math.log(originalMaxPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [fast, slow] = [pair(betaFast), pair(betaSlow)];
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  const high = Math.min(truncate ? Math.ceil(slow) : slow, dims - 1);
  const width = f32(low === high ? 0.001 : high - low);
  return powers.map((power, i) => {
    const ramp = Math.min(1, Math.max(0, f32(f32(i - f32(low)) / width)));
    const kept = f32(1 - ramp);
    const divided = f32(1 / f32(f32(factor) * power));
    return f32(f32(divided * f32(1 - kept)) + f32(f32(1 / power) * kept));
  });
}
