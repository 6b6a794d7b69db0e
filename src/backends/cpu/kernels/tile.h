// The register tile: up to 6 rows of a left operand times a panel, sums kept in registers over the whole depth. The left
// operand is read where it lies (rows of E, one broadcast per row and step); the panel streams from L2.
#pragma once
#include "pack.h"

namespace qdl {
namespace QDL_ISA {

constexpr int TILE_ROWS = 6;
constexpr int TILE_COLS = TILE_VECTORS * LANES;

/** A stretch of depth: `left` points at the tile's first row, `pitch` elements from row to row; a step of the panel has `width` words. */
template <class C>
struct Piece {
  const typename C::E* left;
  int64_t pitch;
  int64_t depth;
  const uint32_t* panel;
  int64_t width;
};

template <int MR, int NV>
QDL_INLINE void step(ComputeF32, vf (&sums)[MR][NV], const float* left, int64_t pitch, const uint32_t* panel, int64_t) {
  vf right[NV];
  for (int j = 0; j < NV; j++) right[j] = load<vf>(panel + j * LANES);
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++) {
    const vf x = splat(left[i * pitch]);
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) sums[i][j] = fma(x, right[j], sums[i][j]);
  }
}

#if defined(__AVX512BF16__)
/** `count`: elements of depth, 1 where only half a pair is left. */
template <int MR, int NV>
QDL_INLINE void step(ComputeBf16, vf (&sums)[MR][NV], const uint16_t* left, int64_t pitch, const uint32_t* panel, int64_t,
                     int64_t count = 2) {
  __m512bh right[NV];
  for (int j = 0; j < NV; j++) right[j] = (__m512bh)_mm512_loadu_si512(panel + j * LANES);
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++) {
    uint32_t word = left[i * pitch];
    if (count == 2) memcpy(&word, left + i * pitch, 4);
    const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(word));
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) sums[i][j] = (vf)_mm512_dpbf16_ps((__m512)sums[i][j], x, right[j]);
  }
}
#endif

#if QDL_ARM_BF16
constexpr int sumRows(int rows) { return (rows + 1) / 2 * 2; }

/**
 * Between whole rows (row 2p, row 2p+1) and what bfmmla adds to: the first two columns of both rows of a vector, then the
 * last two. The same exchange leads back.
 */
template <int ROWS, int NV>
QDL_INLINE void pairRows(vf (&sums)[ROWS][NV]) {
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i += 2)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) {
      const float64x2_t a = (float64x2_t)sums[i][j], b = (float64x2_t)sums[i + 1][j];
      sums[i][j] = (vf)vzip1q_f64(a, b);
      sums[i + 1][j] = (vf)vzip2q_f64(a, b);
    }
}

/** `count` (at most 4) values of two rows, or of one and zeros. */
QDL_INLINE bfloat16x8_t twoRows(const uint16_t* left, int64_t pitch, bool both, int64_t count) {
  uint16_t rest[2][4] = {};
  const uint16_t* first = left;
  const uint16_t* second = both ? left + pitch : rest[1];
  if (count < 4) {
    for (int64_t k = 0; k < count; k++) rest[0][k] = left[k];
    for (int64_t k = 0; k < count && both; k++) rest[1][k] = left[pitch + k];
    first = rest[0], second = rest[1];
  }
  return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(first), both ? vld1_u16(second) : vdup_n_u16(0)));
}

/** `count`: elements of depth, fewer than 4 at the end. */
template <int MR, int NV>
QDL_INLINE void step(ComputeBf16, vf (&sums)[sumRows(MR)][NV], const uint16_t* left, int64_t pitch, const uint32_t* panel,
                     int64_t width, int64_t count = 4) {
  bfloat16x8_t x[sumRows(MR) / 2];
#pragma GCC unroll 4
  for (int i = 0; i < MR; i += 2) x[i / 2] = twoRows(left + i * pitch, pitch, i + 1 < MR, count);
#pragma GCC unroll 4
  for (int j = 0; j < NV; j++) {
    uint32x4_t low = vld1q_u32(panel + j * LANES), high;
    if (count > 2) {
      high = vld1q_u32(panel + width + j * LANES);
    } else {
      // The one step that zipSteps left alone.
      high = vzip2q_u32(low, vdupq_n_u32(0));
      low = vzip1q_u32(low, vdupq_n_u32(0));
    }
#pragma GCC unroll 4
    for (int i = 0; i < MR; i += 2) {
      sums[i][j] = (vf)vbfmmlaq_f32((float32x4_t)sums[i][j], x[i / 2], vreinterpretq_bf16_u32(low));
      sums[i + 1][j] = (vf)vbfmmlaq_f32((float32x4_t)sums[i + 1][j], x[i / 2], vreinterpretq_bf16_u32(high));
    }
  }
}
#endif

/** sums[MR][NV·LANES] (=|+=) Σ over pieces of left · panel. */
template <class C, int MR, int NV>
static __attribute__((noinline)) void tile(const Piece<C>* pieces, int count, float* out, int64_t pitchOut, bool accumulate) {
  constexpr int ROWS = (MR + C::SUM_ROWS - 1) / C::SUM_ROWS * C::SUM_ROWS;
  vf sums[ROWS][NV];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) sums[i][j] = accumulate && i < MR ? load<vf>(out + i * pitchOut + j * LANES) : vf{};
#if QDL_ARM_BF16
  if constexpr (C::SUM_ROWS == 2) pairRows(sums);
#endif
  for (int p = 0; p < count; p++) {
    const typename C::E* left = pieces[p].left;
    const int64_t pitch = pieces[p].pitch;
    const uint32_t* panel = pieces[p].panel;
    const int64_t whole = pieces[p].depth / C::STEP;
    const int64_t width = pieces[p].width, words = C::STEP / C::PAIR * width;
    constexpr int LINE_STEPS = 64 / (C::STEP * sizeof(*left));
    for (int64_t k = 0; k < whole;) {
      // The next tile's rows lie behind these.
#pragma GCC unroll 8
      for (int i = 0; i < MR; i++) __builtin_prefetch(left + (MR + i) * pitch, 0, 2);
      for (const int64_t end = least(whole, k + LINE_STEPS); k < end; k++, left += C::STEP, panel += words)
        step<MR, NV>(C{}, sums, left, pitch, panel, width);
    }
    // The depth may end in part of a step: reading a whole one would pass the end of the row.
    if constexpr (C::STEP > 1)
      if (const int64_t rest = pieces[p].depth % C::STEP) step<MR, NV>(C{}, sums, left, pitch, panel, width, rest);
  }
#if QDL_ARM_BF16
  if constexpr (C::SUM_ROWS == 2) pairRows(sums);
#endif
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) store(out + i * pitchOut + j * LANES, sums[i][j]);
}

/** The tile for this many rows and vectors of columns. */
template <class C>
static void runTile(int rows, int vectors, const Piece<C>* pieces, int count, float* out, int64_t pitchOut, bool accumulate) {
  typedef void (*Tile)(const Piece<C>*, int, float*, int64_t, bool);
#define QDL_ROWS(NV) {tile<C, 1, NV>, tile<C, 2, NV>, tile<C, 3, NV>, tile<C, 4, NV>, tile<C, 5, NV>, tile<C, 6, NV>}
  static const Tile TILES[TILE_VECTORS][TILE_ROWS] = {
      QDL_ROWS(1),
      QDL_ROWS(2),
#if defined(__AVX512F__) || defined(__aarch64__)
      QDL_ROWS(3),
      QDL_ROWS(4),
#endif
  };
#undef QDL_ROWS
  TILES[vectors - 1][rows - 1](pieces, count, out, pitchOut, accumulate);
}

}  // namespace QDL_ISA
}  // namespace qdl
