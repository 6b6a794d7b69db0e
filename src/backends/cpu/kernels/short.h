// Products of a few rows (decoding): one pass over the weight, block by block in registers (registers.h), multiplied with
// every row of x at once. Bound by reading the weight: its bytes must move once. An item owns some columns of the output;
// each thread lays x out once per call.
#pragma once
#include "gemm.h"
#include "registers.h"

namespace qdl {
namespace QDL_ISA {

constexpr int SHORT_COLS = 64;  // rows of the weight that one work item owns at most
static_assert(SHORT_COLS % TILE_COLS == 0, "items end at whole strips");

/** Rows that are multiplied together: absent ones are zero. */
QDL_INLINE int shortRows(int64_t rows) { return rows <= 2 ? static_cast<int>(rows) : rows <= 4 ? 4 : 8; }
static_assert(SHORT_ROWS == 8, "shortRows must reach them");

/** Whether `multiplyShort` can compute these products. */
template <class C>
QDL_INLINE bool isShort(const Product* products, int count, int64_t rows) {
  if (rows > SHORT_ROWS) return false;
  for (int i = 0; i < count; i++) {
    const Product& p = products[i];
    if (p.bases != 1 || p.base[0].columns) return false;
    if (shortRows(rows) * roundUp(p.base[0].depth, BLOCK) > PANEL_WORDS * C::PAIR) return false;
  }
  return true;
}

/** x as E, [block][row][64], in the order in which the right operand's values come, in this thread's workspace. */
template <class C>
static const typename C::E* laidOut(Workspace& w, const Term& base, int64_t row0, int64_t rows, uint64_t call) {
  typedef typename C::E E;
  E* out = reinterpret_cast<E*>(w.panel);
  const bool coded = isCoded(base.right, base.depth);
  const Workspace::Key key = {call, static_cast<int64_t>(reinterpret_cast<uintptr_t>(base.left.data)), coded};
  if (w.key.call == key.call && w.key.panel == key.panel && w.key.range == key.range) return out;
  w.key = key;
  const Source left = sourceOf(base.left, false);
  E* to = out;
  for (int64_t k = 0; k < base.depth; k += BLOCK)
    for (int64_t i = 0; i < shortRows(rows); i++) {
      alignas(64) E block[BLOCK] = {};
      if (i < rows) run(left, row0 + i, k, static_cast<int>(least(BLOCK, base.depth - k)), block);
      for (int plane = 0; plane < PLANES<C>; plane++)
        for (int lane = 0; lane < Vectors<C>::COUNT; lane++, to++)
          *to = block[coded ? elementOf<C>(plane, lane) : plane * Vectors<C>::COUNT + lane];
    }
  return out;
}

/** sums[i][j] = x_i · (row col+j of the weight). */
template <class C, int R>
static __attribute__((noinline)) void shortSums(const Term& base, const typename C::E* x, int64_t col, int cols, float (*sums)[SHORT_COLS]) {
  const Runs<C> rest = {base.right, base.depth};
  withRight<C>(base.right, base.depth, [&](auto right, int64_t whole) {
    for (int j = 0; j < cols; j++) dots<C, R>(right, whole, rest, col + j, x, sums[0] + j, SHORT_COLS);
  });
}

/** sums += Σ_k left[row, k]·right[k, col…]. */
static void addRankedPart(const Term& term, int64_t row, int64_t rank, int64_t col, int cols, float* sums) {
  constexpr int WIDE = 2 * LANES;
  const Source& s = term.right;
  for (int j = 0; j < cols; j += WIDE) {
    const int n = static_cast<int>(least(WIDE, cols - j));
    vf low = load<vf>(sums + j), high = load<vf>(sums + j + LANES);
    const auto each = [&](const auto& at) __attribute__((always_inline)) {
      for (int64_t k = 0; k < rank; k++) {
        const vf factor = splat(readOne(term.left, row, k));
        const auto* values = at(k);
        low = fma(factor, Vectors<ComputeF32>::at(values), low);
        high = fma(factor, Vectors<ComputeF32>::at(values + LANES), high);
      }
    };
    if (n == WIDE && s.dtype == BF16) {
      each([&](int64_t k) { return at<uint16_t>(s.values, k, col + j); });
    } else {
      alignas(64) float values[WIDE] = {};
      each([&](int64_t k) { return run(s, k, col + j, n, values), values; });
    }
    store(sums + j, low);
    store(sums + j + LANES, high);
  }
}

template <class C>
static void shortItem(Workspace& w, const Product& p, const Ranges& ranges, int64_t row0, int rows, int64_t col, int cols,
                      uint64_t call) {
  const Term& base = p.base[0];
  const typename C::E* x = laidOut<C>(w, base, row0, rows, call);
  int64_t ranks[SHORT_ROWS], largest = 0;
  for (int i = 0; i < rows; i++) {
    const int64_t r = rangeAt(ranges, row0 + i);
    ranks[i] = r < ranges.count ? rankOf(ranges, r) : 0;
    largest = most(largest, ranks[i]);
  }
  for (int t = 0; t < p.rankeds; t++) ask(p.ranked[t].right.values, 0, largest, col, cols);
  alignas(64) float sums[SHORT_ROWS][SHORT_COLS];
  switch (shortRows(rows)) {
    case 1: shortSums<C, 1>(base, x, col, cols, sums); break;
    case 2: shortSums<C, 2>(base, x, col, cols, sums); break;
    case 4: shortSums<C, 4>(base, x, col, cols, sums); break;
    default: shortSums<C, 8>(base, x, col, cols, sums);
  }
  for (int i = 0; i < rows; i++)
    for (int t = 0; t < p.rankeds; t++) addRankedPart(p.ranked[t], row0 + i, ranks[i], col, cols, sums[i]);
  for (int part = 0; part < cols; part += TILE_COLS) {
    const Strip strip = {col + part, static_cast<int>(least(TILE_COLS, cols - part)), 0, 0};
    const Write write(p, strip);
    for (int i = 0; i < rows; i++) write(row0 + i, sums[i] + part);
  }
}

template <class C>
static void multiplyShort(Context& context, const Product* products, int count, int64_t row0, int64_t row1, const Ranges& ranges) {
  int64_t total = 0, items = 0;
  for (int i = 0; i < count; i++) total += products[i].out.cols;
  // Enough items to share out.
  const int64_t width = total >= 1024 ? SHORT_COLS : total >= 256 ? SHORT_COLS / 2 : SHORT_COLS / 8;
  for (int i = 0; i < count; i++) items += ceilDiv(products[i].out.cols, width);
  const uint64_t call = ++context.sequence;
  auto item = [&](int64_t i, int thread) {
    int which = 0;
    while (i >= ceilDiv(products[which].out.cols, width)) i -= ceilDiv(products[which++].out.cols, width);
    const Product& p = products[which];
    const int64_t col = i * width;
    shortItem<C>(workspaceOf(context, thread), p, ranges, row0, static_cast<int>(row1 - row0), col,
                 static_cast<int>(least(width, p.out.cols - col)), call);
  };
  parallel(context, items, item);
}

/** The product core's entry: many rows by panels, few rows by dot products. */
template <class C>
static void product(Context& context, const Product* products, int count, int64_t row0, int64_t row1, const Ranges& ranges) {
  if (row1 <= row0 || count == 0) return;
  if (isShort<C>(products, count, row1 - row0))
    multiplyShort<C>(context, products, count, row0, row1, ranges);
  else
    multiply<C>(context, products, count, row0, row1, ranges);
}

}  // namespace QDL_ISA
}  // namespace qdl
