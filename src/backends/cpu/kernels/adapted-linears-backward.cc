// g = s·dY·Bᵀ for each range; dX = Σ dY·W + g·A as one sum; dA += gᵀ·x and dB += tᵀ·dY as products over the rows of a
// range, with g and t transposed in the scratch. All on the product core (gemm.h says what an item owns and moves).
#include "linear-group.h"

namespace qdl {
namespace QDL_ISA {

/** to[col][row] = from[row][col] as E, for rows × cols; an item owns 64 rows. */
template <class C>
static void transposeInto(Context& context, const Tensor* from, const Tensor* to, int count) {
  typedef typename C::E E;
  constexpr int64_t ITEM = 64;
  const int64_t rows = from[0].rows, cols = from[0].cols, across = ceilDiv(rows, ITEM);
  auto item = [&](int64_t i, int) {
    const Tensor &in = from[i / across], &out = to[i / across];
    const int64_t row0 = i % across * ITEM, row1 = least(rows, row0 + ITEM);
    for (int64_t row = row0; row < row1; row += LANES)
      for (int64_t col = 0; col < cols; col += LANES) {
        float block[LANES * LANES] = {}, turned[LANES * LANES];
        const int64_t height = least(LANES, row1 - row), width = least(LANES, cols - col);
        for (int64_t r = 0; r < height; r++) {
          float buffer[LANES];
          memcpy(block + r * LANES, read(in, row + r, col, width, buffer), width * 4);
        }
        transposeTile(reinterpret_cast<uint32_t*>(block), LANES, reinterpret_cast<uint32_t*>(turned), LANES);
        for (int64_t c = 0; c < width; c++) {
          E* to = at<E>(out, col + c, row);
          if constexpr (C::PAIR == 2)
            narrow(turned + c * LANES, height, to);
          else
            memcpy(to, turned + c * LANES, height * 4);
        }
      }
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
      Tensor narrow[2 * MAX_TERMS], turned[2 * MAX_TERMS];
      Product products[2 * MAX_TERMS];
      int used = 0;
      uint8_t* room = scratch;
      for (int i = 0; i < count; i++) {
        if (!da.items[i].data) continue;
        const Tensor lefts[2] = {g[i], t.items[i]}, rights[2] = {x, dy.items[i]}, outs[2] = {da.items[i], db.items[i]};
        for (int side = 0; side < 2; side++, used++) {
          narrow[used] = colsOf(rowsOf(lefts[side], from, to), rank);
          turned[used] = scratchMatrix<C>(room, rank, to - from);
          Product& p = products[used] = productInto(rowsOf(outs[side], 0, rank));
          p.accumulate = true;
          addBase(p, turned[used], sourceOf(rowsOf(rights[side], from, to), round), true, to - from);
        }
      }
      if (used == 0) continue;
      transposeInto<C>(context, narrow, turned, used);
      multiply<C>(context, products, used, 0, rank, {});
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
