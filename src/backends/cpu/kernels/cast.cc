// y = x in another float dtype, bf16 by rounding to nearest even. Reads x and writes y once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void cast(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), y = args.tensor();
  eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
    if (x.dtype == y.dtype)
      memcpy(address(y, row, col), address(x, row, col), n * (x.dtype == BF16 ? 2 : 4));
    else if (y.dtype == F32)
      widen(at<uint16_t>(x, row, col), n, at<float>(y, row, col));
    else
      narrow(at<float>(x, row, col), n, at<uint16_t>(y, row, col));
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
