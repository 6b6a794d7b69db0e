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

/** Thresholds below x, of `count` ascending ones: a tie goes to the lower level. */
QDL_INLINE int nearestLevel(const float* thresholds, int count, float x) {
  int low = 0;
  for (int high = count; low < high;) {
    const int middle = (low + high) >> 1;
    if (x > thresholds[middle])
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace QDL_ISA
}  // namespace qdl
