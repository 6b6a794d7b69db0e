// Rows of a right operand as blocks of 64 values in registers, for products that use each value once or a few times: what a
// value costs is reading it, so nothing is staged through memory. A block is a few vectors ("planes").
// 4-bit codes are not put in order: one shift gives every word's code of one place, the scaled table of 16 turns them into
// values in the same registers, and x is laid out to match, once per call (`elementOf`).
#pragma once
#include "pack.h"

namespace qdl {
namespace QDL_ISA {

/** Vectors of a dot product of E: Σ is kept in f32. */
template <class C>
struct Vectors;

template <>
struct Vectors<ComputeF32> {
  typedef vf Value;
  static constexpr int COUNT = LANES;
  static constexpr int CODES = 8;  // of one machine word of a lane
  static QDL_INLINE_MEMBER Value at(const float* p) { return load<vf>(p); }
  static QDL_INLINE_MEMBER Value at(const uint16_t* p) { return widen(load<vh>(p)); }
  static QDL_INLINE_MEMBER vf add(vf sum, Value w, Value x) { return fma(w, x, sum); }
};

#if QDL_HAS_BF16_DOT
template <>
struct Vectors<ComputeBf16> {
  typedef vb Value;
  static constexpr int COUNT = 2 * LANES;
  static constexpr int CODES = 4;
  static QDL_INLINE_MEMBER Value at(const uint16_t* p) { return load<vb>(p); }
  static QDL_INLINE_MEMBER vf add(vf sum, Value w, Value x) { return addDot(sum, w, x); }
};
#endif

template <class C>
constexpr int PLANES = BLOCK / Vectors<C>::COUNT;

/**
 * From so many rows of x on, rows of codes are multiplied two at a time: each vector of x is then loaded once for both,
 * which counts when there is one such load for every multiplication.
 */
constexpr int PAIRED_FROM = LANES == 16 ? 5 : 1 << 10;

/** Element of a block of codes that lane `lane` of plane `plane` holds. */
template <class C>
constexpr int elementOf(int plane, int lane) {
  constexpr int codes = Vectors<C>::CODES, words = BLOCK / codes, copies = Vectors<C>::COUNT / words;
  return codes * (lane % words) + plane * copies + lane / words;
}

/** Any row by way of memory: `run`, then zeros up to a whole block. In order. */
template <class C>
struct Runs {
  static constexpr bool CODED = false;
  const Source& source;
  int64_t depth;
  QDL_INLINE_MEMBER void copy(int64_t row, int64_t block, typename C::E* out) const {
    const int64_t n = least(BLOCK, depth - block * BLOCK);
    run(source, row, block * BLOCK, static_cast<int>(n), out);
    for (int64_t i = n; i < BLOCK; i++) out[i] = 0;
  }
  QDL_INLINE_MEMBER void fetch(int64_t row, int64_t block, typename Vectors<C>::Value (&out)[PLANES<C>]) const {
    alignas(64) typename C::E values[BLOCK];
    copy(row, block, values);
    for (int p = 0; p < PLANES<C>; p++) out[p] = Vectors<C>::at(values + p * Vectors<C>::COUNT);
  }
};

/** Whole blocks of dense rows, from where they lie. In order. */
template <class C, class Stored>
struct Dense {
  static constexpr bool CODED = false;
  const Source& source;
  QDL_INLINE_MEMBER void fetch(int64_t row, int64_t block, typename Vectors<C>::Value (&out)[PLANES<C>]) const {
    const Stored* values = at<Stored>(source.values, row, block * BLOCK);
    for (int p = 0; p < PLANES<C>; p++) out[p] = Vectors<C>::at(values + p * Vectors<C>::COUNT);
  }
};

/** Whether `Codes` exists on this CPU: AVX2 and up look 16 values up in registers. */
#if defined(__AVX2__)
#define QDL_HAS_CODES 1
/** Rows of 4-bit codes whose blocks do not cross rows. In the order of `elementOf`. */
template <class C>
struct Codes {
  static constexpr bool CODED = true;
  const Source& source;

  QDL_INLINE_MEMBER void fetch(int64_t row, int64_t block, typename Vectors<C>::Value (&out)[PLANES<C>]) const {
    const int64_t at = row * (source.cols / BLOCK) + block;
    const vf scale = splat(scaleOf(source, at));
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source.values.data + at * (BLOCK / 2)));
    lookUp(words, scale, out);
  }

 private:
  /** The levels from `from` on, scaled as the contract says. */
  QDL_INLINE_MEMBER vf levels(int from, vf scale) const {
    const vf exact = load<vf>(source.levels + from) * scale;
    return source.round ? widen(narrow(exact)) : exact;
  }
#if QDL_HAS_BF16_DOT
  QDL_INLINE_MEMBER void lookUp(__m256i words, vf scale, vb (&out)[2]) const {
    // The table twice, since bit 4 of an index is a neighbour's. Subnormals become zero, as they do in the dot product.
    const __m512 exact = (__m512)(load<vf>(source.levels) * scale);
    const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(exact, exact), twice = _mm512_broadcast_i64x4(words);
    for (int p = 0; p < 2; p++) {
      const __m512i shift = _mm512_inserti64x4(_mm512_set1_epi16(8 * p + 4), _mm256_set1_epi16(8 * p), 1);
      out[p] = (vb)_mm512_permutexvar_epi16(_mm512_srlv_epi16(twice, shift), table);
    }
  }
#endif
#if defined(__AVX512F__)
  QDL_INLINE_MEMBER void lookUp(__m256i words, vf scale, vf (&out)[4]) const {
    const __m512 table = (__m512)levels(0, scale);
    const __m512i twice = _mm512_broadcast_i64x4(words);
    for (int p = 0; p < 4; p++) {
      // A byte's first code is its upper half.
      const __m512i shift = _mm512_inserti64x4(_mm512_set1_epi32(8 * p + 4), _mm256_set1_epi32(8 * p), 1);
      out[p] = (vf)_mm512_permutexvar_ps(_mm512_srlv_epi32(twice, shift), table);
    }
  }
#else
  QDL_INLINE_MEMBER void lookUp(__m256i words, vf scale, vf (&out)[8]) const {
    const __m256 below = (__m256)levels(0, scale), above = (__m256)levels(8, scale);
    for (int p = 0; p < 8; p++) {
      const __m256i index = _mm256_srli_epi32(words, 4 * (p ^ 1));
      // Bit 3 of the code picks the half of the table: moved to the sign, which is what a blend looks at.
      const __m256 pick = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
      out[p] = (vf)_mm256_blendv_ps(_mm256_permutevar8x32_ps(below, index), _mm256_permutevar8x32_ps(above, index), pick);
    }
  }
#endif
};
#else
#define QDL_HAS_CODES 0
#endif

/** Whether a right operand of this depth is read as `Codes`, which x must be laid out for. */
QDL_INLINE bool isCoded(const Source& s, int64_t depth) {
  return QDL_HAS_CODES && s.format != DENSE && s.cols == depth && depth % BLOCK == 0;
}

/** Calls function(right, whole) with the fastest way of reading a right operand and the blocks that it reads so. */
template <class C, class Function>
QDL_INLINE void withRight(const Source& s, int64_t depth, Function function) {
#if QDL_HAS_CODES
  if (isCoded(s, depth)) return function(Codes<C>{s}, depth / BLOCK);
#endif
  if (s.format == DENSE && s.dtype == BF16) return function(Dense<C, uint16_t>{s}, depth / BLOCK);
  if constexpr (C::PAIR == 1)
    if (s.format == DENSE && !s.round) return function(Dense<C, float>{s}, depth / BLOCK);
  function(Runs<C>{s, depth}, ceilDiv(depth, BLOCK));
}

/**
 * sums[i·pitchSums + j] = x_i · (row + j), for R rows of x, laid out by blocks: [block][R][64], and J rows of the right
 * operand. Each sum is kept in several chains of additions, which hides their latency, as far as there are registers: their
 * number, and so the order of summation, depends on R alone.
 */
template <class C, int R, int J, class Right>
QDL_INLINE void dots(const Right& right, int64_t whole, const Runs<C>& rest, int64_t row, const typename C::E* x, float* sums,
                     int64_t pitchSums) {
  typedef Vectors<C> V;
  constexpr int ROOM = most((LANES == 16 ? 16 : 8) / R / (R >= PAIRED_FROM ? 2 : 1), 1);
  constexpr int CHAINS = least(PLANES<C>, ROOM);
  // A row's end is copied first: with no call while they live, the sums stay in registers.
  alignas(64) typename C::E last[J][BLOCK];
  const bool partial = whole * BLOCK < rest.depth;
  for (int j = 0; partial && j < J; j++) rest.copy(row + j, whole, last[j]);
  vf all[J][R][CHAINS] = {};
  const auto add = [&](const typename V::Value (&w)[J][PLANES<C>], int64_t block) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int p = 0; p < PLANES<C>; p++)
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        const typename V::Value left = V::at(x + (block * R + i) * BLOCK + p * V::COUNT);
#pragma GCC unroll 2
        for (int j = 0; j < J; j++) all[j][i][p % CHAINS] = V::add(all[j][i][p % CHAINS], w[j][p], left);
      }
  };
  typename V::Value w[J][PLANES<C>];
  for (int64_t block = 0; block < whole; block++) {
    for (int j = 0; j < J; j++) right.fetch(row + j, block, w[j]);
    add(w, block);
  }
  if (partial) {
    for (int j = 0; j < J; j++)
      for (int p = 0; p < PLANES<C>; p++) w[j][p] = V::at(last[j] + p * V::COUNT);
    add(w, whole);
  }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < J; j++) {
      vf total = all[j][i][0];
      for (int chain = 1; chain < CHAINS; chain++) total += all[j][i][chain];
      sums[i * pitchSums + j] = sum(total);
    }
}

}  // namespace QDL_ISA
}  // namespace qdl
