// y = x·rstd·weight, rstd = 1/√(mean(x²) + eps), in f32. An item owns whole rows; x is read from memory once (the second
// pass finds it in L1/L2), y is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

/** Σ a·b over n values, in LANES sums. */
QDL_INLINE vf dotRun(const float* a, const float* b, int64_t n, vf sums) {
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) sums = fma(load<vf>(a + j), load<vf>(b + j), sums);
  for (; j < n; j++) sums[0] += a[j] * b[j];
  return sums;
}

static void rmsNorm(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), y = args.tensor(), rstd = args.tensor();
  const double eps = args.number();
  eachRow(context, x.rows, x.cols, [&](int64_t row) {
    float bufferX[RUN], bufferW[RUN], bufferY[RUN];
    vf squares = {};
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      const float* values = read(x, row, col, n, bufferX);
      squares = dotRun(values, values, n, squares);
    }
    const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(sum(squares)) / x.cols + eps));
    *at<float>(rstd, row) = scale;
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      const float* values = read(x, row, col, n, bufferX);
      const float* gain = read(weight, 0, col, n, bufferW);
      float* out = target(y, row, col, bufferY);
      for (int64_t j = 0; j < n; j++) out[j] = values[j] * scale * gain[j];
      commit(y, row, col, n, out);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
