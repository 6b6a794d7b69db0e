// A matrix that is read run by run: part of one row as f32, or as bf16. 4-bit codes are looked up in a table of 16 values
// that is scaled once per block of 64, so the arithmetic is one f32 product per level (and one rounding to bf16), exactly
// as the contract says, and not one per weight.
#pragma once
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

constexpr int BLOCK = 64;         // values that share a scale
constexpr int SCALE_BLOCK = 256;  // scales that share a second-level scale

/** NF4 as f32 bits, and FP4: sign bit, then magnitudes in twelfths (the code-books of src/ops/code-books.ts). */
static const uint32_t NF4_BITS[16] = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
                                      0xbdba7871, 0x00000000, 0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                                      0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};
static const float FP4_LEVELS[16] = {0.0f,
                                     float(0.0625 / 12),
                                     float(8.0 / 12),
                                     1.0f,
                                     float(4.0 / 12),
                                     0.5f,
                                     float(2.0 / 12),
                                     0.25f,
                                     -0.0f,
                                     float(-0.0625 / 12),
                                     float(-8.0 / 12),
                                     -1.0f,
                                     float(-4.0 / 12),
                                     -0.5f,
                                     float(-2.0 / 12),
                                     -0.25f};

struct Source {
  Format format;
  DType dtype;      // of dense values
  bool round;       // f32 runs are rounded to bf16 first: the compute dtype is bf16, but the CPU has no bf16 product
  int64_t cols;     // of a 4-bit matrix: blocks run on across rows
  Tensor values;
  float levels[16];
  const float* absmax;  // plain scales, or null
  const uint8_t* scaleCodes;
  const float* absmax2;
  const float* map;
  float offset;
};

QDL_INLINE Source sourceOf(const Tensor& dense, bool round) {
  Source s = {};
  s.format = DENSE;
  s.dtype = dense.dtype;
  s.round = round && dense.dtype == F32;
  s.values = dense;
  return s;
}

QDL_INLINE Source sourceOf(const Weight& w, bool round) {
  if (w.format == DENSE) return sourceOf(w.values, round);
  Source s = {};
  s.format = w.format;
  s.round = round;
  s.cols = w.cols;
  s.values = w.values;
  memcpy(s.levels, w.format == NF4 ? static_cast<const void*>(NF4_BITS) : FP4_LEVELS, sizeof s.levels);
  if (w.absmax2.data) {
    s.scaleCodes = at<uint8_t>(w.scales, 0);
    s.absmax2 = at<float>(w.absmax2, 0);
    s.map = at<float>(w.map, 0);
    s.offset = w.offset;
  } else {
    s.absmax = at<float>(w.scales, 0);
  }
  return s;
}

/** absmax of one block; rounded after the product and after the sum (the build forbids contraction to an fma). */
QDL_INLINE float scaleOf(const Source& s, int64_t block) {
  if (s.absmax) return s.absmax[block];
  return s.map[s.scaleCodes[block]] * s.absmax2[static_cast<uint64_t>(block) / SCALE_BLOCK] + s.offset;
}

/** Makes scales of what the first level says of `count` neighbouring blocks, in place; `scales` has room for whole vectors. */
QDL_INLINE void addSecondLevel(const Source& s, int64_t block, int64_t count, float* scales) {
  // Stores must not make the compiler read these again.
  const float* absmax2 = s.absmax2;
  const float offset = s.offset;
  for (int64_t i = 0; i < count; i += LANES) {
    const int64_t first = (block + i) / SCALE_BLOCK, last = (block + least(count, i + LANES) - 1) / SCALE_BLOCK;
    if (first == last)
      store(scales + i, load<vf>(scales + i) * splat(absmax2[first]) + splat(offset));
    else
      for (int64_t j = i; j < least(count, i + LANES); j++) scales[j] = scales[j] * absmax2[(block + j) / SCALE_BLOCK] + offset;
  }
}

/** absmax of `count` neighbouring blocks: where they lie, or in `buffer`, which has room for whole vectors. */
QDL_INLINE const float* scalesOf(const Source& s, int64_t block, int64_t count, float* buffer) {
  if (s.absmax) return s.absmax + block;
  const float* map = s.map;
  const uint8_t* codes = s.scaleCodes + block;
#pragma GCC unroll 8
  for (int64_t i = 0; i < count; i++) memcpy(buffer + i, map + codes[i], 4);
  addSecondLevel(s, block, count, buffer);
  return buffer;
}

QDL_INLINE int codeAt(const uint8_t* codes, int64_t i) { return i & 1 ? codes[i >> 1] & 15 : codes[i >> 1] >> 4; }

#if defined(__aarch64__)
/** The 16 codes of 8 bytes, in order. */
QDL_INLINE uint8x16_t sixteenCodes(const uint8_t* bytes) {
  const uint8x8_t eight = vld1_u8(bytes), first = vshr_n_u8(eight, 4), second = vand_u8(eight, vdup_n_u8(15));
  return vcombine_u8(vzip1_u8(first, second), vzip2_u8(first, second));
}
#endif

/** n codes from position i through a table of 16 floats; i and n are even in all but odd shapes. */
QDL_INLINE void lookUp(const uint8_t* codes, int64_t i, int n, const float* table, float* out) {
  int done = 0;
#if defined(__AVX2__)
  if ((i & 1) == 0) {
    const uint8_t* bytes = codes + (i >> 1);
#if defined(__AVX512F__)
    const __m512 levels = _mm512_loadu_ps(table);
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i shift = _mm512_set1_epi64(0x0000000000000004LL);
    for (; done + 16 <= n; done += 16) {
      uint64_t eight;
      memcpy(&eight, bytes + done / 2, 8);
      __m512i wide = _mm512_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(eight)));
      __m512i index = _mm512_srlv_epi32(_mm512_permutexvar_epi32(low, wide), shift);
      _mm512_storeu_ps(out + done, _mm512_permutexvar_ps(index, levels));
    }
#else
    const __m256 below = _mm256_loadu_ps(table), above = _mm256_loadu_ps(table + 8);
    const __m256i low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    const __m256i shift = _mm256_set1_epi64x(0x0000000000000004LL);
    for (; done + 8 <= n; done += 8) {
      int32_t four;
      memcpy(&four, bytes + done / 2, 4);
      __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi32_si128(four));
      __m256i index = _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(wide, low), shift);
      // Bit 3 of the code picks the half of the table: moved to the sign, which is what a blend looks at.
      __m256 pick = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
      __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(below, index), _mm256_permutevar8x32_ps(above, index), pick);
      _mm256_storeu_ps(out + done, value);
    }
#endif
  }
#elif defined(__aarch64__)
  if ((i & 1) == 0) {
    const uint8_t* bytes = codes + (i >> 1);
    // Byte b of every level is a table of its own; the store puts the bytes of a value together again.
    const uint8x16x4_t levels = vld4q_u8(reinterpret_cast<const uint8_t*>(table));
    for (; done + 16 <= n; done += 16) {
      const uint8x16_t index = sixteenCodes(bytes + done / 2);
      uint8x16x4_t value;
      for (int b = 0; b < 4; b++) value.val[b] = vqtbl1q_u8(levels.val[b], index);
      vst4q_u8(reinterpret_cast<uint8_t*>(out + done), value);
    }
  }
#endif
  for (; done < n; done++) out[done] = table[codeAt(codes, i + done)];
}

/** The same into bf16. */
QDL_INLINE void lookUp(const uint8_t* codes, int64_t i, int n, const uint16_t* table, uint16_t* out) {
  int done = 0;
#if defined(__AVX512BW__)
  if ((i & 1) == 0) {
    const uint8_t* bytes = codes + (i >> 1);
    // 32 entries, the 16 levels twice: bit 4 of an index is a neighbour's bit and must not matter.
    const __m512i levels = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(table)));
    for (; done + 32 <= n; done += 32) {
      __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + done / 2)));
      __m512i index = _mm512_or_si512(_mm512_srli_epi32(wide, 4), _mm512_slli_epi32(wide, 16));
      _mm512_storeu_si512(out + done, _mm512_permutexvar_epi16(index, levels));
    }
  }
#elif defined(__aarch64__)
  if ((i & 1) == 0) {
    const uint8_t* bytes = codes + (i >> 1);
    const uint8x16x2_t levels = vld2q_u8(reinterpret_cast<const uint8_t*>(table));
    for (; done + 16 <= n; done += 16) {
      const uint8x16_t index = sixteenCodes(bytes + done / 2);
      uint8x16x2_t value;
      for (int b = 0; b < 2; b++) value.val[b] = vqtbl1q_u8(levels.val[b], index);
      vst2q_u8(reinterpret_cast<uint8_t*>(out + done), value);
    }
  }
#endif
  for (; done < n; done++) out[done] = table[codeAt(codes, i + done)];
}

QDL_INLINE void scaledLevels(const Source& s, float scale, float* table) {
  for (int i = 0; i < 16; i++) table[i] = s.levels[i] * scale;
  if (s.round)
    for (int i = 0; i < 16; i++) table[i] = widen(narrow(table[i]));
}
QDL_INLINE void scaledLevels(const Source& s, float scale, uint16_t* table) {
  for (int i = 0; i < 16; i += LANES) store(table + i, narrow(load<vf>(s.levels + i) * splat(scale)));
}

/** Values col..col+n−1 of a row. E is float or uint16_t (bf16). */
template <class E>
static void run(const Source& s, int64_t row, int64_t col, int n, E* out) {
  if (s.format == DENSE) {
    if (s.dtype == (sizeof(E) == 4 ? F32 : BF16))
      copyRun(at<E>(s.values, row, col), n, out);
    else if constexpr (sizeof(E) == 4)
      widen(at<uint16_t>(s.values, row, col), n, out);
    else
      narrow(at<float>(s.values, row, col), n, out);
    if constexpr (sizeof(E) == 4)
      if (s.round)
        for (int i = 0; i < n; i++) out[i] = widen(narrow(out[i]));
    return;
  }
  int64_t i = row * s.cols + col;
  for (const int64_t end = i + n; i < end;) {
    const int64_t block = i / BLOCK;
    const int count = static_cast<int>(least(end, (block + 1) * BLOCK) - i);
    alignas(64) E table[16];
    scaledLevels(s, scaleOf(s, block), table);
    lookUp(s.values.data, i, count, table, out);
    out += count;
    i += count;
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
