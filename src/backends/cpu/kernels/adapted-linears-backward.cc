// g = s·dY·Bᵀ for each range; dX = Σ dY·W + g·A as one sum; dA += gᵀ·x and dB += tᵀ·dY as products over the rows of a
// range, with g and t transposed in the scratch: x is packed once for the gᵀ of all linears, one below the other. All on the
// product core (gemm.h says what an item owns and moves).
#include "linear-group.h"

namespace qdl {
namespace QDL_ISA {

/** to[col][row] = from[row][col] as E, for at most LANES × LANES values. */
template <class C>
static void transposePart(const Tensor& from, int64_t row, int64_t height, int64_t col, int64_t width, const Tensor& to) {
  typedef typename C::E E;
  float block[LANES * LANES] = {}, turned[LANES * LANES];
  for (int64_t r = 0; r < height; r++) {
    float buffer[LANES];
    memcpy(block + r * LANES, read(from, row + r, col, width, buffer), width * 4);
  }
  transposeTile(reinterpret_cast<uint32_t*>(block), LANES, reinterpret_cast<uint32_t*>(turned), LANES);
  for (int64_t c = 0; c < width; c++) {
    E* out = at<E>(to, col + c, row);
    if constexpr (C::PAIR == 2)
      narrow(turned + c * LANES, height, out);
    else
      memcpy(out, turned + c * LANES, height * 4);
  }
}

/** The same for whole matrices; an item owns 64 rows. */
template <class C>
static void transposeInto(Context& context, const Tensor* from, const Tensor* to, int count) {
  constexpr int64_t ITEM = 64;
  const int64_t rows = from[0].rows, cols = from[0].cols, across = ceilDiv(rows, ITEM);
  auto item = [&](int64_t i, int) {
    const Tensor &in = from[i / across], &out = to[i / across];
    int64_t row = i % across * ITEM;
    const int64_t end = least(rows, row + ITEM);
#if defined(__AVX512BF16__)
    if (C::PAIR == 2 && in.dtype == BF16 && cols % LANES == 0)
      for (; row + PAIR_COLS <= end; row += PAIR_COLS)
        for (int64_t col = 0; col < cols; col += LANES) transposePairs(in, row, col, out);
#endif
    for (; row < end; row += LANES)
      for (int64_t col = 0; col < cols; col += LANES)
        transposePart<C>(in, row, least(LANES, end - row), col, least(LANES, cols - col), out);
  };
  parallel(context, count * across, item);
}

template <class C>
QDL_INLINE Tensor scratchMatrix(uint8_t*& scratch, int64_t rows, int64_t cols) {
  Tensor t;
  t.rows = rows;
  t.cols = cols;
  t.stride = roundUp(cols, 32);
  t.dtype = C::PAIR == 2 ? BF16 : F32;
  t.data = scratch;
  scratch += t.rows * t.stride * sizeof(typename C::E);
  return t;
}

/** Ends rows of a product whose outputs lie one below the other, `height` rows of each. */
struct StackedWrite {
  Write writes[MAX_TERMS];
  int64_t height;

  StackedWrite(const Product* p, int64_t height, const Strip& strip)
      : writes{{p[0], strip}, {p[1], strip}, {p[2], strip}, {p[3], strip}}, height(height) {}
  QDL_INLINE_MEMBER void ahead(int64_t row, int rows) const {
    for (int64_t i = row; i < row + rows; i++) writes[i / height].ahead(i % height, 1);
  }
  QDL_INLINE_MEMBER void operator()(int64_t row, const float* sums) const { writes[row / height](row % height, sums); }
};

/** One linear's operands of dA and dB. */
struct AdapterGradient {
  Tensor g, t, dy, da, db;
};

/** dA += gᵀ·x and dB += tᵀ·dY over rows from..to−1, for `count` linears that share x. */
template <class C>
static void adapterGradients(Context& context, const Tensor& x, const AdapterGradient* linears, int count, int64_t from,
                             int64_t to, int64_t rank, bool round, uint8_t* scratch) {
  const int64_t rows = to - from;
  Tensor narrow[2 * MAX_TERMS], turned[2 * MAX_TERMS];
  Product dA[MAX_TERMS] = {}, dB[MAX_TERMS];
  const Tensor stack = scratchMatrix<C>(scratch, count * rank, rows);
  for (int i = 0; i < count; i++) {
    const AdapterGradient& linear = linears[i];
    narrow[2 * i] = colsOf(rowsOf(linear.g, from, to), rank);
    turned[2 * i] = rowsOf(stack, i * rank, (i + 1) * rank);
    narrow[2 * i + 1] = colsOf(rowsOf(linear.t, from, to), rank);
    turned[2 * i + 1] = scratchMatrix<C>(scratch, rank, rows);
    dA[i] = productInto(rowsOf(linear.da, 0, rank));
    dB[i] = productInto(rowsOf(linear.db, 0, rank));
    dA[i].accumulate = dB[i].accumulate = true;
    addBase(dB[i], turned[2 * i + 1], sourceOf(rowsOf(linear.dy, from, to), round), true, rows);
  }
  transposeInto<C>(context, narrow, turned, 2 * count);
  Product stacked = productInto(dA[0].out);
  addBase(stacked, stack, sourceOf(rowsOf(x, from, to), round), true, rows);
  multiplyThen<C>(context, &stacked, 1, 0, count * rank, {},
                  [&](const Product&, const Strip& strip) { return StackedWrite(dA, rank, strip); });
  multiply<C>(context, dB, count, 0, rank, {});
}

static void adaptedLinearsBackward(Context& context, const double* words, uint8_t* scratch) {
  Args args(words);
  const Tensor x = args.tensor();
  const WeightList weights = readWeights(args);
  const TensorList a = readList(args), b = readList(args), t = readList(args), dy = readList(args);
  const Tensor dx = args.tensor();
  const TensorList da = readList(args), db = readList(args);
  const Ranges ranges = args.ranges();
  const int count = weights.count;
  const int64_t maxRank = largestRank(ranges);
  withCompute(x.dtype, [&](auto compute) {
    typedef decltype(compute) C;
    const bool round = rounds<C>(x.dtype);
    Tensor g[MAX_TERMS] = {};
    const Tensor* gradients[MAX_TERMS];
    for (int i = 0; i < count; i++) {
      gradients[i] = &dy.items[i];
      if (b.items[i].data) g[i] = scratchMatrix<C>(scratch, x.rows, maxRank);
    }
    rankProducts<C>(context, gradients, b.items, g, count, ranges, round);
    if (dx.data) {
      Product p = productInto(dx);
      for (int i = 0; i < count; i++) {
        if (weights.items[i].format != ZERO)
          addBase(p, dy.items[i], sourceOf(weights.items[i], round), true, dy.items[i].cols);
        if (a.items[i].data) addRanked(p, g[i], sourceOf(a.items[i], round), true);
      }
      product<C>(context, &p, 1, 0, x.rows, ranges);
    }
    for (int64_t r = 0; r < ranges.count; r++) {
      const int64_t from = fromOf(ranges, r), to = toOf(ranges, r), rank = rankOf(ranges, r);
      if (rank == 0 || from >= to) continue;
      AdapterGradient linears[MAX_TERMS];
      int used = 0;
      for (int i = 0; i < count; i++)
        if (da.items[i].data) linears[used++] = {g[i], t.items[i], dy.items[i], da.items[i], db.items[i]};
      if (used > 0) adapterGradients<C>(context, x, linears, used, from, to, rank, round, scratch);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
