// The activations of feed-forward layers, all of the form a(z) = z·s(z), with their slopes a'(z). Double precision.
//   silu       s = σ(z) = 1/(1 + e^−z)
//   gelu-erf   s = Φ(z) = ½(1 + erf(z/√2)), the normal distribution (arXiv 1606.08415, §2): "gelu" in transformers
//   gelu-tanh  s = ½(1 + tanh(√(2/π)(z + 0.044715·z³))), its approximation (same place): "gelu_new", "gelu_pytorch_tanh"
// Slopes: docs/math/gelu.md.

export type Activation = "silu" | "gelu-tanh" | "gelu-erf";

interface Definition {
  share(z: number): number;
  /** ds/dz, given s. */
  shareSlope(z: number, s: number): number;
}

/** ½(1 + tanh v) = σ(2v): 2v = z·(LINEAR + CUBIC·z²). */
const LINEAR = 2 * Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715 * LINEAR;

const DEFINITIONS: Readonly<Record<Activation, Definition>> = {
  silu: { share: sigmoid, shareSlope: (_, s) => s * (1 - s) },
  "gelu-tanh": {
    share: (z) => sigmoid(z * (LINEAR + CUBIC * z * z)),
    shareSlope: (z, s) => s * (1 - s) * (LINEAR + 3 * CUBIC * z * z),
  },
  "gelu-erf": {
    share: (z) => 0.5 * (1 + erf(z / Math.SQRT2)),
    shareSlope: (z) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI),
  },
};

export const ACTIVATIONS = Object.keys(DEFINITIONS) as readonly Activation[];

export const activate = (activation: Activation, z: number): number => z * DEFINITIONS[activation].share(z);

/** a'(z) = s + z·s'. */
export function slopeOf(activation: Activation, z: number): number {
  const { share, shareSlope } = DEFINITIONS[activation];
  const s = share(z);
  return s + z * shareSlope(z, s);
}

function sigmoid(z: number): number {
  return 1 / (1 + Math.exp(-z));
}

/** erf x = 2/√π · e^−x² · Σ 2^n x^(2n+1)/(2n+1)!!: every term has the sign of x, so none cancels another. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}
