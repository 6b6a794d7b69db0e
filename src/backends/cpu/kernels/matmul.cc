// y = x·weightᵀ in f32, on the product core (gemm.h says what an item owns and moves).
#include "short.h"

namespace qdl {
namespace QDL_ISA {

static void matmul(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), y = args.tensor();
  withCompute(commonDtype(x, weight), [&](auto compute) {
    Product p = productInto(y);
    addBase(p, x, sourceOf(weight, false), false, x.cols);
    product<decltype(compute)>(context, &p, 1, 0, x.rows, {});
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
