// Products of a few rows (decoding): one pass over the weight, decoded row by row in L1 and multiplied with every row of x
// at once, without panels. Bound by reading the weight: its bytes must move once.
#pragma once
#include "gemm.h"

namespace qdl {
namespace QDL_ISA {

constexpr int SHORT_COLS = 32;  // rows of the weight that one work item owns

QDL_INLINE float dot(ComputeF32, const float* a, const float* b, int64_t n) {
  vf sums[4] = {};
  for (int64_t i = 0; i < n; i += 4 * LANES)
    for (int j = 0; j < 4; j++) sums[j] = fma(load<vf>(a + i + j * LANES), load<vf>(b + i + j * LANES), sums[j]);
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}
#if QDL_HAS_BF16_DOT
QDL_INLINE float dot(ComputeBf16, const uint16_t* a, const uint16_t* b, int64_t n) {
  vf sums[4] = {};
  for (int64_t i = 0; i < n; i += 8 * LANES)
    for (int j = 0; j < 4; j++) sums[j] = addDot(sums[j], a + i + j * 2 * LANES, b + i + j * 2 * LANES);
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}
#endif

/** n values of a row as E, then zeros up to a whole number of dot-product steps. Returns the padded count. */
template <class C>
QDL_INLINE int64_t padded(const Source& s, int64_t row, int64_t col, int64_t n, typename C::E* out) {
  const int64_t whole = roundUp(n, 4 * LANES * C::PAIR);
  run(s, row, col, static_cast<int>(n), out);
  memset(out + n, 0, (whole - n) * sizeof *out);
  return whole;
}

/** Whether `multiplyShort` can compute these products. */
QDL_INLINE bool isShort(const Product* products, int count, int64_t rows) {
  if (rows > SHORT_ROWS) return false;
  for (int i = 0; i < count; i++)
    if (products[i].bases != 1 || products[i].base[0].columns) return false;
  return true;
}

template <class C>
static void shortItem(Workspace& w, const Product& p, const Ranges& ranges, int64_t row0, int rows, int64_t col, int cols) {
  typedef typename C::E E;
  E* x = reinterpret_cast<E*>(w.left);
  E* weight = reinterpret_cast<E*>(w.staging);
  static_assert(sizeof w.left >= SHORT_ROWS * SHORT_DEPTH * 4 && sizeof w.staging >= 4 * SHORT_DEPTH, "room for the rows");
  alignas(64) float sums[SHORT_ROWS][TILE_COLS > SHORT_COLS ? TILE_COLS : SHORT_COLS] = {};
  const Term& base = p.base[0];
  const Source left = sourceOf(base.left, false);
  for (int64_t k = 0; k < base.depth; k += SHORT_DEPTH) {
    const int64_t n = least(SHORT_DEPTH, base.depth - k);
    for (int i = 0; i < rows; i++) padded<C>(left, row0 + i, k, n, x + i * SHORT_DEPTH);
    for (int j = 0; j < cols; j++) {
      const int64_t whole = padded<C>(base.right, col + j, k, n, weight);
      for (int i = 0; i < rows; i++) sums[i][j] += dot(C{}, weight, x + i * SHORT_DEPTH, whole);
    }
  }
  float* buffer = w.sums;
  for (int i = 0; i < rows; i++) {
    const int64_t r = rangeAt(ranges, row0 + i);
    const int64_t rank = r < ranges.count ? rankOf(ranges, r) : 0;
    for (int t = 0; t < p.rankeds; t++)
      for (int64_t k = 0; k < rank; k++) {
        const float factor = readOne(p.ranked[t].left, row0 + i, k);
        run(p.ranked[t].right, k, col, cols, buffer);
        for (int j = 0; j < cols; j++) sums[i][j] += factor * buffer[j];
      }
  }
  for (int64_t part = 0; part < cols; part += TILE_COLS) {
    const Strip strip = {col + part, static_cast<int>(least(TILE_COLS, cols - part)), 0, 0};
    const Write write(p, strip);
    for (int i = 0; i < rows; i++) write(row0 + i, sums[i] + part);
  }
}

template <class C>
static void multiplyShort(Context& context, const Product* products, int count, int64_t row0, int64_t row1, const Ranges& ranges) {
  int64_t items = 0;
  for (int i = 0; i < count; i++) items += ceilDiv(products[i].out.cols, SHORT_COLS);
  context.sequence++;
  auto item = [&](int64_t i, int thread) {
    int which = 0;
    while (i >= ceilDiv(products[which].out.cols, SHORT_COLS)) i -= ceilDiv(products[which++].out.cols, SHORT_COLS);
    const Product& p = products[which];
    const int64_t col = i * SHORT_COLS;
    shortItem<C>(workspaceOf(context, thread), p, ranges, row0, static_cast<int>(row1 - row0), col,
                 static_cast<int>(least(SHORT_COLS, p.out.cols - col)));
  };
  parallel(context, items, item);
}

/** The product core's entry: many rows by panels, few rows by dot products. */
template <class C>
static void product(Context& context, const Product* products, int count, int64_t row0, int64_t row1, const Ranges& ranges) {
  if (row1 <= row0 || count == 0) return;
  if (isShort(products, count, row1 - row0))
    multiplyShort<C>(context, products, count, row0, row1, ranges);
  else
    multiply<C>(context, products, count, row0, row1, ranges);
}

}  // namespace QDL_ISA
}  // namespace qdl
