// The register tile: up to 6 rows of a left operand times a panel, sums kept in registers over the whole depth. The left
// operand is read where it lies (rows of E, one broadcast per row and step); the panel streams from L2.
#pragma once
#include "pack.h"

namespace qdl {
namespace QDL_ISA {

constexpr int TILE_ROWS = 6;
constexpr int TILE_COLS = TILE_VECTORS * LANES;

/** A stretch of depth: `left` points at the tile's first row, `pitch` elements from row to row. */
template <class C>
struct Piece {
  const typename C::E* left;
  int64_t pitch;
  int64_t depth;
  const uint32_t* panel;
};

template <int MR, int NV>
QDL_INLINE void step(ComputeF32, vf (&sums)[MR][NV], const float* left, int64_t pitch, const uint32_t* panel) {
  vf right[NV];
  for (int j = 0; j < NV; j++) right[j] = load<vf>(panel + j * LANES);
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++) {
    const vf x = splat(left[i * pitch]);
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) sums[i][j] = fma(x, right[j], sums[i][j]);
  }
}

#if QDL_HAS_BF16_DOT
template <int MR, int NV>
QDL_INLINE void step(ComputeBf16, vf (&sums)[MR][NV], const uint16_t* left, int64_t pitch, const uint32_t* panel, bool pair = true) {
  __m512bh right[NV];
  for (int j = 0; j < NV; j++) right[j] = (__m512bh)_mm512_loadu_si512(panel + j * LANES);
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++) {
    uint32_t word = left[i * pitch];
    if (pair) memcpy(&word, left + i * pitch, 4);
    const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(word));
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) sums[i][j] = (vf)_mm512_dpbf16_ps((__m512)sums[i][j], x, right[j]);
  }
}
#endif

/** sums[MR][NV·LANES] (=|+=) Σ over pieces of left · panel. */
template <class C, int MR, int NV>
static __attribute__((noinline)) void tile(const Piece<C>* pieces, int count, float* out, int64_t pitchOut, bool accumulate) {
  vf sums[MR][NV];
  for (int i = 0; i < MR; i++)
    for (int j = 0; j < NV; j++) sums[i][j] = accumulate ? load<vf>(out + i * pitchOut + j * LANES) : vf{};
  for (int p = 0; p < count; p++) {
    const typename C::E* left = pieces[p].left;
    const int64_t pitch = pieces[p].pitch;
    const uint32_t* panel = pieces[p].panel;
    const int64_t whole = pieces[p].depth / C::PAIR;
    for (int64_t k = 0; k < whole; k++, left += C::PAIR, panel += NV * LANES) step<MR, NV>(C{}, sums, left, pitch, panel);
    // An odd depth ends in half a pair: reading a whole one would pass the end of the row.
    if constexpr (C::PAIR == 2)
      if (pieces[p].depth % 2) step<MR, NV>(C{}, sums, left, pitch, panel, false);
  }
  for (int i = 0; i < MR; i++)
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
