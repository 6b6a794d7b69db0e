// t = s·x·Aᵀ for each range, then y = x·Wᵀ + t·B (+ bias) as one sum per output, on the product core (gemm.h says what an
// item owns and moves). Weights that share x are one call: their panels are one list of items.
#include "linear-group.h"

namespace qdl {
namespace QDL_ISA {

static void adaptedLinears(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor();
  const WeightList weights = readWeights(args);
  const TensorList biases = readList(args), a = readList(args), b = readList(args), t = readList(args), y = readList(args);
  const Ranges ranges = args.ranges();
  withCompute(x.dtype, [&](auto compute) {
    typedef decltype(compute) C;
    const bool round = rounds<C>(x.dtype);
    Product wide[MAX_TERMS], narrow[MAX_TERMS];
    for (int i = 0; i < weights.count; i++) {
      Product& p = wide[i] = productInto(y.items[i]);
      p.bias = biases.items[i];
      if (weights.items[i].format != ZERO) addBase(p, x, sourceOf(weights.items[i], round), false, x.cols);
      if (a.items[i].data) addRanked(p, t.items[i], sourceOf(b.items[i], round), true);
    }
    const Tensor* lefts[MAX_TERMS] = {&x, &x, &x, &x};
    if (x.rows > 0 && isShort<C>(wide, weights.count, x.rows)) {
      const int narrows = rankProductsOf(lefts, a.items, t.items, weights.count, largestRank(ranges), round, narrow);
      multiplyShort<C>(context, narrow, narrows, wide, weights.count, 0, x.rows, ranges);
    } else {
      rankProducts<C>(context, lefts, a.items, t.items, weights.count, ranges, round);
      multiply<C>(context, wide, weights.count, 0, x.rows, ranges);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
