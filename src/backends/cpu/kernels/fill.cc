// y = value. An item owns a run of elements; writes each byte of y once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void fill(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor y = args.tensor();
  const double value = args.number();
  const float real = static_cast<float>(value);
  eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
    if (y.dtype == I32)
      for (int64_t j = 0; j < n; j++) at<int32_t>(y, row, col)[j] = static_cast<int32_t>(value);
    else if (y.dtype == BF16)
      for (int64_t j = 0; j < n; j++) at<uint16_t>(y, row, col)[j] = narrow(real);
    else
      for (int64_t j = 0; j < n; j++) at<float>(y, row, col)[j] = real;
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
