// y = W decoded in f32, rounded once. An item owns a run of elements; reads the codes and scales and writes y once.
#include "decode.h"

namespace qdl {
namespace QDL_ISA {

static void dequantize(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Weight weight = args.weight();
  const Tensor y = args.tensor();
  const Source source = sourceOf(weight, false);
  eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
    if (y.dtype == F32)
      run(source, row, col, static_cast<int>(n), at<float>(y, row, col));
    else
      run(source, row, col, static_cast<int>(n), at<uint16_t>(y, row, col));
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
