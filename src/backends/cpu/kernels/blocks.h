// What both quantisers share: the largest magnitude of a block, its reciprocal, and the nearest level of a table. Bit for bit
// the arithmetic of src/ops/quantize-4bit.ts; NaN takes part in maxima and gets the lowest code.
#pragma once
#include "decode.h"

namespace qdl {
namespace QDL_ISA {

/** max|x|. Magnitudes are ordered as their bits are, with NaN above infinity: so NaN wins. */
QDL_INLINE float largestMagnitude(const float* x, int64_t n) {
  int32_t best = 0;
  for (int64_t j = 0; j < n; j++) {
    int32_t bits;
    memcpy(&bits, x + j, 4);
    bits &= 0x7fffffff;
    best = bits > best ? bits : best;
  }
  float largest;
  memcpy(&largest, &best, 4);
  return largest;
}

QDL_INLINE float reciprocalOf(float absmax) { return 1.0f / (absmax < 1e-38f ? 1e-38f : absmax); }

/** Thresholds below x, of 2^k − 1 ascending ones: a tie goes to the lower level. No branch: scales have no pattern. */
template <int COUNT>
QDL_INLINE int nearestLevel(const float* thresholds, float x) {
  int level = 0;
  for (int half = (COUNT + 1) / 2; half > 0; half /= 2) level += x > thresholds[level + half - 1] ? half : 0;
  return level;
}

}  // namespace QDL_ISA
}  // namespace qdl
