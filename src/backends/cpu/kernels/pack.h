// Panels: the right operand of a product, `width` columns by `depth` steps, laid out in the order in which a register tile
// reads it. A panel is made of 32-bit words: one f32, or two bf16 of neighbouring steps (what a bf16 dot product eats).
//   word [step][column];  step = one k (f32) or two (bf16; an odd last one is paired with zero)
// Columns beyond the matrix are zero. A compute that takes two words of a column at once (STEP) has them side by side: see
// zipSteps.
#pragma once
#include "pack-pairs.h"

namespace qdl {
namespace QDL_ISA {

// How products are computed. PAIR: elements of E in a word of a panel. STEP: elements of depth that a register tile takes at
// once. SUM_ROWS: rows of a tile whose sums share registers.

/** f32 fused multiply–adds. */
struct ComputeF32 {
  typedef float E;
  static constexpr int PAIR = 1, STEP = 1, SUM_ROWS = 1;
};
/** As many bf16 as fill a vector. */
typedef uint16_t vb __attribute__((vector_size(LANES * 4)));

#if defined(__AVX512BF16__)
#define QDL_HAS_BF16_DOT 1
/** bf16 pairs, accumulated in f32 by vdpbf16ps. */
struct ComputeBf16 {
  typedef uint16_t E;
  static constexpr int PAIR = 2, STEP = 2, SUM_ROWS = 1;
};
/** sums + a·b over 2·LANES values, neighbours in one lane. */
QDL_INLINE vf addDot(vf sums, vb a, vb b) { return (vf)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b); }
#elif QDL_ARM_BF16
#define QDL_HAS_BF16_DOT 1
/** 2 rows × 4 steps times 4 steps × 2 columns of bf16, accumulated in f32 by bfmmla. */
struct ComputeBf16 {
  typedef uint16_t E;
  static constexpr int PAIR = 2, STEP = 4, SUM_ROWS = 2;
};
QDL_INLINE vf addDot(vf sums, vb a, vb b) {
  return (vf)vbfdotq_f32((float32x4_t)sums, vreinterpretq_bf16_u16((uint16x8_t)a), vreinterpretq_bf16_u16((uint16x8_t)b));
}
#else
#define QDL_HAS_BF16_DOT 0
#endif

/** Calls function(compute) with the fastest way of computing products of activations of this dtype. */
template <class Function>
QDL_INLINE void withCompute(DType dtype, Function function) {
#if QDL_HAS_BF16_DOT
  if (dtype == BF16) return function(ComputeBf16{});
#endif
  (void)dtype;
  function(ComputeF32{});
}

/** Compute dtype of a product with a dense weight of a dtype of its own: an f32 weight beside bf16 rows stays f32. */
QDL_INLINE DType commonDtype(const Tensor& x, const Tensor& weight) {
  return x.dtype == BF16 && weight.dtype == BF16 ? BF16 : F32;
}

/** Whether f32 values must be rounded to bf16 on the way into a product of this compute dtype. */
template <class C>
QDL_INLINE bool rounds(DType dtype) {
  return dtype == BF16 && C::PAIR == 1;
}

QDL_INLINE int64_t steps(int64_t depth, int pair) { return (depth + pair - 1) / pair; }

/**
 * Puts the words of every two neighbouring steps of a packed panel side by side, in place: of each vector of columns, the
 * first half then lies in the even step and the second half in the odd one. An odd last step stays as it is.
 */
template <class C>
QDL_INLINE void zipSteps(uint32_t* panel, int depth, int width) {
  (void)panel, (void)depth, (void)width;
#if QDL_ARM_BF16
  if constexpr (C::STEP == 2 * C::PAIR)
    for (int64_t step = 0; step + 2 <= steps(depth, C::PAIR); step += 2, panel += 2 * width)
      for (int j = 0; j < width; j += LANES) {
        const uint32x4_t even = vld1q_u32(panel + j), odd = vld1q_u32(panel + width + j);
        vst1q_u32(panel + j, vzip1q_u32(even, odd));
        vst1q_u32(panel + width + j, vzip2q_u32(even, odd));
      }
#endif
}

/** Words of a row that are decoded before they are transposed: 16 rows of them stay in L1. */
constexpr int PACK_WORDS = 128;

/**
 * Packs what can be packed in registers of LANES columns (rows of `s`): the first so many elements of depth, which it returns.
 */
template <class C>
QDL_INLINE int packWholeRows(const Source& s, int64_t from, int depth, int64_t row, int width, uint32_t* out) {
#if defined(__AVX512BF16__)
  if constexpr (C::PAIR == 2) {
    if (hasWholeBlocks(s) && from % BLOCK == 0) {
      packCodedRows(s, row, from, depth / BLOCK, width, out);
      return depth / BLOCK * BLOCK;
    }
    if (s.format == DENSE && s.dtype == BF16 && s.values.stride % 2 == 0) {
      constexpr int TILE = LANES * C::PAIR;
      const uint32_t* words = reinterpret_cast<const uint32_t*>(at<uint16_t>(s.values, row, from));
      int k = 0;
      for (; k + TILE <= depth; k += TILE, out += LANES * width) transposeTile(words + k / 2, s.values.stride / 2, out, width);
      return k;
    }
  }
#endif
  (void)s, (void)from, (void)depth, (void)row, (void)width, (void)out;
  return 0;
}

/** The same down `cols` columns: returns how many of them are done, over the whole depth (an even number). */
template <class C>
QDL_INLINE int packWholeCols(const Source& s, int64_t from, int depth, int64_t col, int cols, int width, uint32_t* out) {
#if defined(__AVX512BF16__)
  if constexpr (C::PAIR == 2) {
    if (hasWholeBlocks(s) && col % BLOCK == 0 && cols == BLOCK) {
      packCodedCols(s, from, depth, col, out);
      return BLOCK;
    }
    if (s.format == DENSE && s.dtype == BF16) {
      const int whole = cols / PAIR_COLS * PAIR_COLS;
      packDenseCols(s.values, from, depth, col, whole, width, out);
      return whole;
    }
  }
#endif
  (void)s, (void)from, (void)depth, (void)col, (void)cols, (void)width, (void)out;
  return 0;
}

/**
 * A panel whose column j is row col+j of `s` (y = x·Wᵀ: the depth runs along the rows of W).
 * `staging` holds LANES rows of PACK_WORDS words.
 */
template <class C>
static void packRows(const Source& s, int64_t from, int depth, int64_t col, int64_t cols, int width, uint32_t* out,
                     uint32_t* staging) {
  typedef typename C::E E;
  for (int group = 0; group < width; group += LANES) {
    const int valid = static_cast<int>(most(0, least(LANES, cols - group)));
    for (int r = valid; r < LANES; r++) memset(staging + r * PACK_WORDS, 0, PACK_WORDS * 4);
    const int done = valid == LANES ? packWholeRows<C>(s, from, depth, col + group, width, out + group) : 0;
    for (int k = done; k < depth; k += PACK_WORDS * C::PAIR) {
      const int n = static_cast<int>(least(PACK_WORDS * C::PAIR, depth - k));
      const int words = static_cast<int>(steps(n, C::PAIR));
      for (int r = 0; r < valid; r++) {
        E* row = reinterpret_cast<E*>(staging + r * PACK_WORDS);
        run(s, col + group + r, from + k, n, row);
        if (n % C::PAIR) row[n] = 0;
      }
      uint32_t* panel = out + static_cast<int64_t>(k / C::PAIR) * width + group;
      int w = 0;
      for (; w + LANES <= words; w += LANES) transposeTile(staging + w, PACK_WORDS, panel + static_cast<int64_t>(w) * width, width);
      for (; w < words; w++)
        for (int r = 0; r < LANES; r++) panel[static_cast<int64_t>(w) * width + r] = staging[r * PACK_WORDS + w];
    }
  }
  zipSteps<C>(out, depth, width);
}

/** A panel whose step k is row from+k of `s`, columns col… (dX = dY·W: the depth runs down the columns of W). */
template <class C>
static void packCols(const Source& s, int64_t from, int depth, int64_t col, int64_t cols, int width, uint32_t* out) {
  const int n = static_cast<int>(least(width, cols));
  if constexpr (C::PAIR == 1) {
    for (int k = 0; k < depth; k++, out += width) {
      run(s, from + k, col, n, reinterpret_cast<float*>(out));
      for (int j = n; j < width; j++) out[j] = 0;
    }
  } else {
    uint32_t* const panel = out;
    const int paired = depth / 2 * 2, done = packWholeCols<C>(s, from, paired, col, n, width, out);
    alignas(64) uint16_t even[TILE_VECTORS * LANES] = {}, odd[TILE_VECTORS * LANES] = {};
    for (int k = 0; k < depth; k += 2, out += width) {
      // Whole columns are done but for an odd last step.
      const int first = k < paired ? done : 0;
      if (first == width) continue;
      run(s, from + k, col + first, n - first, even + first);
      if (k + 1 < depth)
        run(s, from + k + 1, col + first, n - first, odd + first);
      else
        memset(odd, 0, sizeof odd);
      for (int j = first; j < width; j += LANES) {
        vu low = __builtin_convertvector(load<vh>(even + j), vu), high = __builtin_convertvector(load<vh>(odd + j), vu);
        store(out + j, low | high << 16);
      }
    }
    zipSteps<C>(panel, depth, width);
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
