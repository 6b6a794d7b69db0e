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
  static QDL_INLINE_MEMBER Value splat(const float* p) { return QDL_ISA::splat(*p); }
  static QDL_INLINE_MEMBER vf add(vf sum, Value w, Value x) { return fma(w, x, sum); }
};

#if QDL_HAS_BF16_DOT
template <>
struct Vectors<ComputeBf16> {
  typedef vb Value;
  static constexpr int COUNT = 2 * LANES;
  static constexpr int CODES = 4;
  static QDL_INLINE_MEMBER Value at(const uint16_t* p) { return load<vb>(p); }
  /** Two neighbours in every lane. */
  static QDL_INLINE_MEMBER Value splat(const uint16_t* p) { return (Value)(load<uint32_t>(p) - vu{}); }
  static QDL_INLINE_MEMBER vf add(vf sum, Value w, Value x) { return addDot(sum, w, x); }
};

/** a[0], b[0], a[1], b[1], … */
QDL_INLINE void zip(vb a, vb b, vb& low, vb& high) {
#if defined(__AVX512BF16__)
  struct Order {
    alignas(64) uint16_t of[2][2 * LANES];
    constexpr Order() : of() {
      for (int i = 0; i < 4 * LANES; i++) of[i / (2 * LANES)][i % (2 * LANES)] = static_cast<uint16_t>(i / 2 + i % 2 * 2 * LANES);
    }
  };
  static constexpr Order ORDER;
  low = (vb)_mm512_permutex2var_epi16((__m512i)a, _mm512_load_si512(ORDER.of[0]), (__m512i)b);
  high = (vb)_mm512_permutex2var_epi16((__m512i)a, _mm512_load_si512(ORDER.of[1]), (__m512i)b);
#else
  low = (vb)vzip1q_u16((uint16x8_t)a, (uint16x8_t)b);
  high = (vb)vzip2q_u16((uint16x8_t)a, (uint16x8_t)b);
#endif
}
#endif

template <class C>
constexpr int PLANES = BLOCK / Vectors<C>::COUNT;

/**
 * Rows of the right operand that are multiplied at a time with R rows of x, as far as there are registers: each vector of x is
 * loaded once for all of them, and their sums are independent. Dense rows are read faster one by one, while reading is all.
 */
template <class C, int R, bool CODED>
constexpr int JOINED = LANES != 16 || !CODED ? 1 : R >= 5 ? 2 : PLANES<C> == 2 ? 4 : 2;
/** The same where x does not stay in L1: loading it costs more than what the registers then lack. */
template <class C, int R, bool CODED>
constexpr int JOINED_DEEP = JOINED<C, R, CODED> == 2 && PLANES<C> == 2 && R >= 6 ? 3 : JOINED<C, R, CODED>;

/** Element of a block of codes that lane `lane` of plane `plane` holds. */
template <class C>
constexpr int elementOf(int plane, int lane) {
  constexpr int codes = Vectors<C>::CODES, words = BLOCK / codes, copies = Vectors<C>::COUNT / words;
  return codes * (lane % words) + plane * copies + lane / words;
}

/** A block of x in the order of `elementOf`. */
template <class C>
QDL_INLINE void putInOrder(typename C::E* x) {
  typename C::E block[BLOCK];
  for (int i = 0; i < BLOCK; i++) block[i] = x[i];
  for (int plane = 0; plane < PLANES<C>; plane++)
    for (int lane = 0; lane < Vectors<C>::COUNT; lane++) *x++ = block[elementOf<C>(plane, lane)];
}
#if QDL_HAS_BF16_DOT && defined(__AVX512BF16__)
template <>
QDL_INLINE_MEMBER void putInOrder<ComputeBf16>(uint16_t* x) {
  struct Order {
    alignas(64) uint16_t of[BLOCK];
    constexpr Order() : of() {
      for (int i = 0; i < BLOCK; i++) of[i] = static_cast<uint16_t>(elementOf<ComputeBf16>(i / 32, i % 32));
    }
  };
  static constexpr Order ORDER;
  const __m512i low = _mm512_loadu_si512(x), high = _mm512_loadu_si512(x + 32);
  for (int p = 0; p < 2; p++)
    _mm512_storeu_si512(x + 32 * p, _mm512_permutex2var_epi16(low, _mm512_load_si512(ORDER.of + 32 * p), high));
}
#endif

/** A block of each of J rows. */
template <class C, int J>
struct Values {
  typename Vectors<C>::Value of[J][PLANES<C>];
};

// Right operands: `each<J, AHEAD>` calls function(values, block) for blocks 0..blocks−1 of J neighbouring rows, and asks for what
// lies behind. AHEAD: the work on a block is long, so that the next one is made ready meanwhile.

/** Bytes between what is asked for and what is used. */
constexpr int64_t FAR_BYTES = 4096;

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
  template <int J, bool AHEAD, class Function>
  QDL_INLINE_MEMBER void each(int64_t row, int64_t blocks, const Function& function) const {
    alignas(64) typename C::E values[BLOCK];
    Values<C, J> w;
    for (int64_t block = 0; block < blocks; block++) {
      for (int j = 0; j < J; j++) {
        copy(row + j, block, values);
        for (int p = 0; p < PLANES<C>; p++) w.of[j][p] = Vectors<C>::at(values + p * Vectors<C>::COUNT);
      }
      function(w, block);
    }
  }
};

/** Whole blocks of dense rows, from where they lie. In order. */
template <class C, class Stored>
struct Dense {
  static constexpr bool CODED = false;
  const Source& source;
  template <int J, bool AHEAD, class Function>
  QDL_INLINE_MEMBER void each(int64_t row, int64_t blocks, const Function& function) const {
    Values<C, J> w;
    for (int64_t block = 0; block < blocks; block++) {
      for (int j = 0; j < J; j++) {
        const Stored* values = at<Stored>(source.values, row + j, block * BLOCK);
        for (int i = 0; i < BLOCK; i += 64 / sizeof(Stored)) __builtin_prefetch(values + FAR_BYTES / sizeof(Stored) + i, 0, 2);
        for (int p = 0; p < PLANES<C>; p++) w.of[j][p] = Vectors<C>::at(values + p * Vectors<C>::COUNT);
      }
      function(w, block);
    }
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

  explicit Codes(const Source& source) : source(source) {}

  /** J neighbouring rows. */
  template <int J, bool AHEAD, class Function>
  QDL_INLINE_MEMBER void each(int64_t row, int64_t blocks, const Function& function) {
    const bool tabled = !source.absmax && J * blocks <= (TABLES - 1) * SCALE_BLOCK;
    for (int64_t from = 0, count; from < blocks; from += count) {
      const float* scales[J];
      count = blocks - from;
      if (tabled) {
        for (int j = 0; j < J; j++) {
          const int64_t first = (row + j) * blocks + from;
          scales[j] = tableOf(first / SCALE_BLOCK);
          count = least(count, SCALE_BLOCK - first % SCALE_BLOCK);
        }
        const uint8_t* codes = source.scaleCodes + row * blocks + from;
        pass<J, AHEAD>(row, blocks, from, count, function, [&](int j, int64_t block) { return scales[j][codes[j * blocks + block]]; });
      } else {
        count = least(ROOM / J, count);
        for (int j = 0; j < J; j++) scales[j] = scalesOf(source, (row + j) * blocks + from, count, buffer + j * (ROOM / J));
        pass<J, AHEAD>(row, blocks, from, count, function, [&](int j, int64_t block) { return scales[j][block]; });
      }
    }
  }

 private:
  /** Tables that are kept; those of rows that are read together lie side by side. */
  static constexpr int64_t TABLES = 8;
  /** Where rows are too long for that, scales of as many blocks are made at once. */
  static constexpr int64_t ROOM = 1024;
  alignas(64) float tables[TABLES][SCALE_BLOCK];
  alignas(64) float buffer[ROOM + LANES];
  int64_t held[TABLES] = {-1, -1, -1, -1, -1, -1, -1, -1};

  /** The scale that each code means in a group of blocks, which has as many blocks as there are codes: made once, looked up once a block. */
  QDL_INLINE_MEMBER const float* tableOf(int64_t group) {
    float* table = tables[group % TABLES];
    if (held[group % TABLES] != group) {
      held[group % TABLES] = group;
      const vf absmax2 = splat(source.absmax2[group]), offset = splat(source.offset);
      for (int i = 0; i < SCALE_BLOCK; i += LANES) store(table + i, load<vf>(source.map + i) * absmax2 + offset);
    }
    return table;
  }

  /**
   * Calls function(values, block) for blocks from..from+count−1, whose scales are scaleAt(j, block − from). Where there are registers,
   * a block is looked up while the one before it is multiplied: otherwise multiplications would wait for the chain of look-ups.
   */
  template <int J, bool AHEAD, class Function, class Scales>
  QDL_INLINE_MEMBER void pass(int64_t row, int64_t blocks, int64_t from, int64_t count, const Function& function,
                              const Scales& scaleAt) const {
    const uint8_t* codes = source.values.data + (row * blocks + from) * (BLOCK / 2);
    // The rows behind these, in the order of memory.
    const uint8_t* ahead = codes + (J * blocks - from) * (BLOCK / 2) + J * from * (BLOCK / 2) + FAR_BYTES;
    const auto fetch = [&](int64_t block, Values<C, J>& w) __attribute__((always_inline)) {
      for (int line = 0; line < J * BLOCK / 2; line += 64) __builtin_prefetch(ahead + block * J * (BLOCK / 2) + line, 0, 2);
      for (int j = 0; j < J; j++) {
        const uint8_t* at = codes + (j * blocks + block) * (BLOCK / 2);
        lookUp(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), splat(scaleAt(j, block)), w.of[j]);
      }
    };
    Values<C, J> w;
    if constexpr (AHEAD && J <= 2 && PLANES<C> == 2) {
      Values<C, J> next;
      fetch(0, next);
      for (int64_t block = 0; block + 1 < count; block++) {
        w = next;
        fetch(block + 1, next);
        function(w, from + block);
      }
      function(next, from + count - 1);
    } else {
      for (int64_t block = 0; block < count; block++) {
        fetch(block, w);
        function(w, from + block);
      }
    }
  }

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

/** Calls function(right, whole) with the fastest way of reading rows, and the blocks that it reads so. */
template <class C, class Function>
QDL_INLINE void withRight(const Source& s, int64_t depth, Function function) {
#if QDL_HAS_CODES
  if (isCoded(s, depth)) return function(Codes<C>(s), depth / BLOCK);
#endif
  if (s.format == DENSE && s.dtype == BF16) return function(Dense<C, uint16_t>{s}, depth / BLOCK);
  if constexpr (C::PAIR == 1)
    if (s.format == DENSE && !s.round) return function(Dense<C, float>{s}, depth / BLOCK);
  function(Runs<C>{s, depth}, ceilDiv(depth, BLOCK));
}

/**
 * sums[i·pitchSums + j] = x_i · (row + j), for R rows of x, laid out by blocks: [block][R][64], and J rows of the right
 * operand. Each sum is kept in several chains of additions, which hides their latency, as far as there are registers: their
 * number, and so the order of summation, depends on R and the kind of right operand alone.
 */
template <class C, int R, int J, class Right>
QDL_INLINE void dots(Right& right, int64_t whole, const Runs<C>& rest, int64_t row, const typename C::E* x, float* sums,
                     int64_t pitchSums) {
  typedef Vectors<C> V;
  constexpr int ROOM = most((LANES == 16 ? 16 : 8) / R / JOINED<C, R, Right::CODED>, 1);
  constexpr int CHAINS = least(PLANES<C>, ROOM);
  // A row's end is copied first: with no call while they live, the sums stay in registers.
  alignas(64) typename C::E last[J][BLOCK];
  const bool partial = whole * BLOCK < rest.depth;
  for (int j = 0; partial && j < J; j++) rest.copy(row + j, whole, last[j]);
  vf all[R][J][CHAINS] = {};
  const auto add = [&](const Values<C, J>& w, int64_t block) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int p = 0; p < PLANES<C>; p++)
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        const typename V::Value left = V::at(x + (block * R + i) * BLOCK + p * V::COUNT);
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) all[i][j][p % CHAINS] = V::add(all[i][j][p % CHAINS], w.of[j][p], left);
      }
  };
  right.template each<J, (R >= 5)>(row, whole, add);
  if (partial) {
    Values<C, J> w;
    for (int j = 0; j < J; j++)
      for (int p = 0; p < PLANES<C>; p++) w.of[j][p] = V::at(last[j] + p * V::COUNT);
    add(w, whole);
  }
  vf totals[R * J];
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) {
      totals[i * J + j] = all[i][j][0];
      for (int chain = 1; chain < CHAINS; chain++) totals[i * J + j] += all[i][j][chain];
    }
  float folded[R * J];
  sumsOf(totals, folded);
  for (int i = 0; i < R; i++)
    for (int j = 0; j < J; j++) sums[i * pitchSums + j] = folded[i * J + j];
}

}  // namespace QDL_ISA
}  // namespace qdl
