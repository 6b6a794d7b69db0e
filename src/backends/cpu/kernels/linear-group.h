// What adaptedLinears and its backward share: reading their arguments, and views of adapters at a rank.
#pragma once
#include "short.h"

namespace qdl {
namespace QDL_ISA {

struct TensorList {
  Tensor items[MAX_TERMS];
};
/** A count, then that many tensors (null data: absent). */
QDL_INLINE TensorList readList(Args& args) {
  TensorList list = {};
  const int64_t count = args.integer();
  for (int64_t i = 0; i < count; i++) list.items[i] = args.tensor();
  return list;
}

struct WeightList {
  Weight items[MAX_TERMS];
  int count;
};
QDL_INLINE WeightList readWeights(Args& args) {
  WeightList list = {};
  list.count = static_cast<int>(args.integer());
  for (int i = 0; i < list.count; i++) list.items[i] = args.weight();
  return list;
}

/** Rows from..to−1. */
QDL_INLINE Tensor rowsOf(Tensor t, int64_t from, int64_t to) {
  t.data = address(t, from, 0);
  t.rows = to - from;
  return t;
}
QDL_INLINE Tensor colsOf(Tensor t, int64_t cols) {
  t.cols = cols;
  return t;
}

/**
 * The products out_i[:, :rank] = left_i·factor_i[:rank]ᵀ: t = s·x·Aᵀ in the forward, g = s·dY·Bᵀ in the backward. Linears whose
 * factor has null data are left out. Returns how many there are.
 */
static int rankProductsOf(const Tensor* const* lefts, const Tensor* factors, const Tensor* outs, int count, int64_t rank,
                          bool round, Product* products) {
  int used = 0;
  for (int i = 0; i < count; i++) {
    if (!factors[i].data) continue;
    addBase(products[used] = productInto(colsOf(outs[i], rank)), *lefts[i], sourceOf(factors[i], round), false, lefts[i]->cols);
    used++;
  }
  return used;
}

/** Those products for each range, at its rank and scale. */
template <class C>
static void rankProducts(Context& context, const Tensor* const* lefts, const Tensor* factors, const Tensor* outs, int count,
                         const Ranges& ranges, bool round) {
  for (int64_t r = 0; r < ranges.count; r++) {
    const int64_t rank = rankOf(ranges, r);
    if (rank == 0) continue;
    Product products[MAX_TERMS];
    const int used = rankProductsOf(lefts, factors, outs, count, rank, round, products);
    for (int i = 0; i < used; i++) products[i].scale = static_cast<float>(ranges.list[r].scale);
    product<C>(context, products, used, fromOf(ranges, r), toOf(ranges, r), {});
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
