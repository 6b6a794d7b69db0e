// The activations a(z) = z·s(z) of src/ops/activation.ts by vectors: `share` is s, `back` is d·a'(z) given s.
#pragma once
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

QDL_INLINE vf sigmoid(vf z) { return splat(1) / (splat(1) + exponential(-z)); }

struct Silu {
  QDL_INLINE vf share(vf z) { return sigmoid(z); }
  QDL_INLINE vf back(vf d, vf z, vf s) { return d * s * (splat(1) + z * (splat(1) - s)); }
};

struct GeluTanh {
  static constexpr float LINEAR = 1.5957691216057308f, CUBIC = 0.07135481627159854f;  // 2√(2/π), and 0.044715 times it
  QDL_INLINE vf share(vf z) { return sigmoid(z * fma(z * z, splat(CUBIC), splat(LINEAR))); }
  QDL_INLINE vf back(vf d, vf z, vf s) {
    return d * fma(z * s * (splat(1) - s), fma(z * z, splat(3 * CUBIC), splat(LINEAR)), s);
  }
};

struct GeluErf {
  /** Φ(z), from ½·erfc(|z|/√2) within 2e-7 of itself (Press et al., Numerical Recipes, §6.2): no cancellation for z < 0. */
  QDL_INLINE vf share(vf z) {
    const vf size = (vf)((vu)z & 0x7fffffffu) * splat(0.70710678f);
    const vf t = splat(1) / fma(size, splat(0.5f), splat(1));
    vf p = splat(0.17087277f);
    p = fma(p, t, splat(-0.82215223f));
    p = fma(p, t, splat(1.48851587f));
    p = fma(p, t, splat(-1.13520398f));
    p = fma(p, t, splat(0.27886807f));
    p = fma(p, t, splat(-0.18628806f));
    p = fma(p, t, splat(0.09678418f));
    p = fma(p, t, splat(0.37409196f));
    p = fma(p, t, splat(1.00002368f));
    p = fma(p, t, splat(-1.26551223f));
    const vf tail = splat(0.5f) * t * exponential(p - size * size);
    return z < splat(0) ? tail : splat(1) - tail;
  }
  QDL_INLINE vf back(vf d, vf z, vf s) {
    return d * fma(z * splat(0.3989422804f), exponential(z * z * splat(-0.5f)), s);
  }
};

/** Calls function with the activation of this number, as kernels.ts writes it. */
template <class Function>
QDL_INLINE void withActivation(int64_t number, Function function) {
  switch (number) {
    case 0: return function(Silu{});
    case 1: return function(GeluTanh{});
    default: return function(GeluErf{});
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
