// y = (x − mean)·rstd·weight + bias, rstd = 1/√(var(x) + eps), in f32. An item owns whole rows; x is read from memory once
// (the second and third pass find it in L1/L2), y is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void layerNorm(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), bias = args.tensor(), y = args.tensor();
  const Tensor mean = args.tensor(), rstd = args.tensor();
  const double eps = args.number();
  eachRow(context, x.rows, x.cols, [&](int64_t row) {
    float bufferX[RUN], bufferW[RUN], bufferB[RUN] = {}, bufferY[RUN];
    // The sum in double: what its rounding costs is multiplied by the mean's size in deviations.
    double total = 0;
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      total += sumRun(read(x, row, col, n, bufferX), n);
    }
    const float centre = static_cast<float>(total / x.cols);
    vf squares = {};
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      const float* values = read(x, row, col, n, bufferX);
      for (int64_t j = 0; j < n; j++) bufferY[j] = values[j] - centre;
      squares = dotRun(bufferY, bufferY, n, squares);
    }
    const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(sum(squares)) / x.cols + eps));
    *at<float>(mean, row) = centre;
    *at<float>(rstd, row) = scale;
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      const float* values = read(x, row, col, n, bufferX);
      const float* gain = read(weight, 0, col, n, bufferW);
      const float* shift = bias.data ? read(bias, 0, col, n, bufferB) : bufferB;
      float* out = target(y, row, col, bufferY);
#pragma GCC ivdep
      for (int64_t j = 0; j < n; j++) out[j] = (values[j] - centre) * scale * gain[j] + shift[j];
      commit(y, row, col, n, out);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
